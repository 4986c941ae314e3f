//! Plain tables for lists that StratusLab had no command for.

use crate::output::printable;

/// What is between two columns.
const GAP: usize = 2;

/// Titles and rows in columns, without a newline at the end. Control characters of cells are made harmless.
#[must_use]
pub fn render(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = vec![titles.iter().map(ToString::to_string).collect()];
    lines.extend(rows.into_iter().map(|row| {
        row.iter()
            .map(|cell| printable(cell).replace(['\n', '\t'], " "))
            .collect()
    }));
    let width_of = |index: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(index))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width_of).collect();
    let text = |line: &Vec<String>| {
        line.iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<0$}", width + GAP))
            .collect::<String>()
            .trim_end()
            .to_owned()
    };
    lines.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Bytes in the unit that people use for them.
#[must_use]
pub fn shown_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let text = render(
            &["NAME", "STATE"],
            [
                vec!["a\u{1b}[1m".to_owned(), "on".to_owned()],
                vec!["longer-name".to_owned(), String::new()],
            ],
        );
        assert_eq!(text, "NAME         STATE\na?[1m        on\nlonger-name");
    }
}
