//! Text in columns, spaced as Go's `text/tabwriter` does it.

/// The rows, each cell but the last of a row as wide as the widest of its column and `gap` spaces.
pub(super) fn table<const COLUMNS: usize>(rows: &[[&str; COLUMNS]], gap: usize) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + gap;
    let widths: Vec<usize> = (0..COLUMNS.saturating_sub(1)).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}"));
        }
        text.push_str(row.last().unwrap_or(&""));
        text.push('\n');
    }
    text
}
