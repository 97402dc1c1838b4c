//! `compose schema`

use clap::Args;

use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::Context;
use crate::load::json_schema;

/// Print the JSON Schema of Compose files, for editors
#[derive(Args, Debug)]
pub(crate) struct SchemaArgs {}

pub(crate) fn run(context: &mut Context, _: &SchemaArgs) -> Result<ExitStatus, CommandError> {
    context.ui.data(&json_schema())?;
    Ok(ExitStatus::Success)
}
