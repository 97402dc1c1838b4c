//! Rows that `--format` shapes: a table, JSON, or what a template says.

use serde_json::{Map, Value};

use super::error::CommandError;
use super::table;
use crate::template::{Template, TemplateError, go_json};

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Fields of Docker's JSON, by name.
    pub fields: Value,
    /// What templates can name beside them.
    pub hidden: Map<String, Value>,
}

/// Rows and how they are shown.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// Template of the columns of a plain `table`, parted by tabs.
    pub columns: &'static str,
    /// Titles of the fields in a table.
    pub titles: Value,
    pub rows: Vec<Row>,
}

impl Listing {
    /// `format`: `table`, `table TEMPLATE`, `json` (one object per line), or a template for each row.
    pub(crate) fn render(&self, format: &str) -> Result<String, TemplateError> {
        match format {
            "" | "table" => self.table(self.columns),
            "json" => {
                let rows = self.rows.iter().map(|row| go_json(&row.fields));
                let rows: Vec<String> = rows.collect();
                Ok(table::lines(rows.iter().map(String::as_str)))
            }
            format => match format.strip_prefix("table ") {
                Some(columns) => self.table(columns.trim()),
                None => self.lines(&Template::parse(format)?),
            },
        }
    }

    fn lines(&self, template: &Template) -> Result<String, TemplateError> {
        let mut text = String::new();
        for row in &self.rows {
            text.push_str(&template.render(&row.fields, &row.hidden)?);
            text.push('\n');
        }
        Ok(text)
    }

    fn table(&self, columns: &str) -> Result<String, TemplateError> {
        let template = Template::parse(columns)?;
        let text = format!(
            "{}\n{}",
            template.render_header(&self.titles)?,
            self.lines(&template)?
        );
        let rows: Vec<Vec<String>> = text
            .lines()
            .map(|line| line.split('\t').map(Into::into).collect())
            .collect();
        Ok(table::render(&rows, table::COLUMN))
    }
}

impl From<TemplateError> for CommandError {
    fn from(error: TemplateError) -> Self {
        Self::usage(format!("template parsing error: {error}"))
    }
}
