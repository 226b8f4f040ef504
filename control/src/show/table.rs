//! Columns of text. By hand: a table here is twenty lines, less than choosing a crate for it.

use std::borrow::Cow;
use std::fmt;

/// Which side of its column a cell stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A heading and rows of as many cells.
pub(super) struct Table {
    columns: Vec<(Cow<'static, str>, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.iter().map(|(h, align)| (Cow::Borrowed(*h), *align)).collect(), rows: Vec::new() }
    }

    /// One more column, for headings that the document gives.
    pub(super) fn column(&mut self, heading: String, align: Align) {
        self.columns.push((Cow::Owned(heading), align));
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn write_row<'c>(
        &self,
        f: &mut fmt::Formatter<'_>,
        widths: &[usize],
        cells: impl Iterator<Item = &'c str>,
    ) -> fmt::Result {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.zip(widths).zip(&self.columns) {
            let gap = if line.is_empty() { "" } else { "  " };
            line += &match align {
                Align::Left => format!("{gap}{cell:<width$}"),
                Align::Right => format!("{gap}{cell:>width$}"),
            };
        }
        writeln!(f, "{}", line.trim_end())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = |(i, (heading, _)): (usize, &(Cow<'_, str>, Align))| {
            let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count());
            cells.chain([heading.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(widest).collect();
        self.write_row(f, &widths, self.columns.iter().map(|(heading, _)| &**heading))?;
        self.rows.iter().try_for_each(|row| self.write_row(f, &widths, row.iter().map(String::as_str)))
    }
}

/// A number with commas between its thousands.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
        assert_eq!(thousands(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("NAME", Align::Left), ("FRAMES", Align::Right)]);
        table.row(vec!["a".into(), "1".into()]);
        table.row(vec!["ünlong".into(), "1,000,000".into()]);
        assert_eq!(table.to_string(), "NAME       FRAMES\na               1\nünlong  1,000,000\n");
    }
}
