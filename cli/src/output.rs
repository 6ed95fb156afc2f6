//! Tables, JSON, what happens when nobody reads, and what never reaches a terminal.
//!
//! Texts of others stand in much of what is shown: records, answers of servers, messages of objects. So all that is for people goes
//! through [`print`], [`print_json`] or [`tell`], which let no control character pass.

use std::fmt::Write as _;
use std::io::Write as _;

/// Columns aligned by spaces; the last one is not padded.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a head.
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|name| (*name).to_owned()).collect()] }
    }

    /// Adds a row. Nothing in a cell can look like another row.
    pub fn row<I: IntoIterator<Item = S>, S: Into<String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell.into())).collect());
    }

    /// Whether there is nothing but the head.
    pub fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}   ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Prints lines for people to standard output.
///
/// # Errors
/// Nobody reads any more.
pub fn print(text: &str) -> anyhow::Result<()> {
    print_data(&lines(text))
}

/// Prints what a program reads, byte for byte, to standard output.
///
/// # Errors
/// Nobody reads any more.
pub fn print_data(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Prints JSON to standard output.
///
/// # Errors
/// Nobody reads any more.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print_data(&(json_lines(&serde_json::to_string_pretty(value)?) + "\n"))
}

/// Tells something on standard error. That nobody reads it is no reason to end.
pub fn tell(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "testimony: {}", lines(&text.to_string()));
}

/// For what has been judged: the verdict holds, and its exit code with it, whether anybody reads on or not.
///
/// # Errors
/// It was not printed for another reason.
pub fn though_nobody_reads(printed: anyhow::Result<()>) -> anyhow::Result<()> {
    match printed {
        Err(error) if !is_broken_pipe(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Whether an error says that nobody reads the output.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// `1 pod`, `2 pods`.
pub fn plural(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// A control character never reaches a terminal. Nor does the end of a line, so that no text looks like a line of ours.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Lines without any other control character.
fn lines(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// JSON without any control character but ends of lines: serde leaves some of them as they are. They stand in strings only, where
/// an escape says the same.
pub fn json_lines(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() && c != '\n' {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["a-long-name", "1"]);
        table.row(["b", ""]);
        assert_eq!(table.to_string(), "NAME          N\na-long-name   1\nb\n");
    }

    #[test]
    fn escapes_do_not_reach_a_terminal() {
        assert_eq!(printable("a\u{1b}[31m\n"), "a\u{fffd}[31m\u{fffd}");
        assert_eq!(lines("a\u{1b}[31m\u{9b}2J\r\nb"), "a\u{fffd}[31m\u{fffd}2J\u{fffd}\nb");
        let mut table = Table::new(&["MESSAGE"]);
        table.row(["\u{1b}[2J\nall is well"]);
        assert_eq!(table.to_string(), "MESSAGE\n\u{fffd}[2J\u{fffd}all is well\n");
    }

    #[test]
    fn json_says_the_same_without_control_characters() {
        let text = "a\u{1b}\n\u{7f}\u{9b}\u{e4}\"\\";
        let value = serde_json::json!({ text: [text] });
        let shown = json_lines(&serde_json::to_string_pretty(&value).expect("JSON"));
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
    }
}
