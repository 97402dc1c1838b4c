//! Columns of text, aligned by spaces.

use unicode_width::UnicodeWidthStr as _;

/// Least width of a column, as Docker's tables have it; the padding after a cell is counted in.
pub(crate) const COLUMN: usize = 10;

/// As [`COLUMN`], for the table of projects.
pub(crate) const WIDE_COLUMN: usize = 20;

const PADDING: usize = 3;

/// Least width and padding of a column in the table of processes.
const NARROW: (usize, usize) = (4, 2);

/// Renders `rows`, each ended by a line feed. All cells but the last of a row are padded to the width of their column,
/// which is at least `column`.
pub(crate) fn render(rows: &[Vec<String>], column: usize) -> String {
    render_padded(rows, column, PADDING)
}

/// As [`render`], with less room between the columns.
pub(crate) fn render_narrow(rows: &[Vec<String>]) -> String {
    let (column, padding) = NARROW;
    render_padded(rows, column, padding)
}

fn render_padded(rows: &[Vec<String>], column: usize, padding: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![column; columns];
    for row in rows {
        for (width, cell) in widths
            .iter_mut()
            .zip(row.iter().take(row.len().saturating_sub(1)))
        {
            *width = (*width).max(cell.width() + padding);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if index + 1 < row.len() {
                let padding = widths[index].saturating_sub(cell.width());
                text.extend(std::iter::repeat_n(' ', padding));
            }
        }
        text.push('\n');
    }
    text
}

/// Each of `items` on a line of its own.
pub(crate) fn lines<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.flat_map(|item| [item, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter()
            .map(|row| row.iter().map(ToString::to_string).collect())
            .collect()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_three() {
        let table = rows(&[
            &["NAME", "IMAGE", "PORTS"],
            &["clipeer-web-1", "busybox", ""],
        ]);
        assert_eq!(
            render(&table, COLUMN),
            "NAME            IMAGE     PORTS\nclipeer-web-1   busybox   \n"
        );
    }

    #[test]
    fn wide_characters_count_twice() {
        let table = rows(&[&["名前名前名前", "x"], &["abc", "y"]]);
        assert_eq!(render(&table, 4), "名前名前名前   x\nabc            y\n");
    }

    #[test]
    fn rows_of_unequal_length_are_kept() {
        assert_eq!(render(&rows(&[&["a"], &["b", "c"]]), 4), "a\nb   c\n");
        assert_eq!(render(&[], 4), "");
        assert_eq!(render(&[Vec::new()], 4), "\n");
    }
}
