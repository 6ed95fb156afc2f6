//! What is wrong with a configuration, for the person who must mend it.

use std::fmt;

/// Longest part of a wrong value that is repeated in a message, in characters.
const VALUE_CHARS_MAX: usize = 120;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The environment variable, or the path of the field in the file.
    pub field: String,
    /// The value that was found; absent when there was none, or when it may be secret.
    pub value: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// What to do about it.
    pub fix: String,
}

/// Everything that is wrong with a configuration: one line for each problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Problem {
    /// A problem with a value that may be shown.
    pub fn of(field: impl Into<String>, value: &str, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(VALUE_CHARS_MAX).collect();
        if shown.len() < value.len() {
            shown.push_str("...");
        }
        Self { field: field.into(), value: Some(shown), reason: reason.into(), fix: fix.into() }
    }

    /// A problem without a value to show.
    pub fn about(field: impl Into<String>, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { field: field.into(), value: None, reason: reason.into(), fix: fix.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field)?;
        if let Some(value) = &self.value {
            write!(f, "={value:?}")?;
        }
        write!(f, ": {}; {}", self.reason, self.fix)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.problems.len() == 1 { "" } else { "s" };
        write!(f, "the configuration has {} problem{plural}:", self.problems.len())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}
