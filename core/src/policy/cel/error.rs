//! Why an expression cannot be used, and where.

use std::fmt;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Whether the expression has more than one line.
    many_lines: bool,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl ExpressionError {
    /// Where, as people count.
    pub fn place(&self) -> String {
        match self.many_lines {
            true => format!("line {}, column {}", self.line, self.column),
            false => format!("column {}", self.column),
        }
    }
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place(), self.problem, self.fix)
    }
}

impl std::error::Error for ExpressionError {}

/// A place in an expression: the offset of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(pub usize);

impl At {
    /// An error at this place.
    pub(super) fn error(self, text: &str, problem: impl Into<String>, fix: impl Into<String>) -> ExpressionError {
        let before = text.get(..self.0).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        ExpressionError {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            many_lines: text.contains('\n'),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}
