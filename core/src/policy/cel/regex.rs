//! Regular expressions in linear time: the RE2 kind that CEL asks for, as one table that is computed beforehand.

use regex_automata::Input;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::syntax;

/// Longest pattern, in bytes.
pub(super) const PATTERN_BYTES_MAX: usize = 256;

/// Largest table of one pattern, in bytes.
const TABLE_BYTES_MAX: usize = 128 * 1024;

/// Most memory while a table is computed, in bytes.
const BUILD_BYTES_MAX: usize = 1024 * 1024;

/// Largest automaton before its table, in bytes.
const AUTOMATON_BYTES_MAX: usize = 128 * 1024;

/// A pattern that is searched for.
#[derive(Clone, Debug)]
pub(super) struct Regex(dense::DFA<Vec<u32>>);

impl Regex {
    /// Computes a pattern's table. Classes such as `\d` are those of ASCII.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!("the pattern has {} bytes, more than {PATTERN_BYTES_MAX}", pattern.len()));
        }
        let automaton = thompson::Config::new()
            .utf8(false)
            .nfa_size_limit(Some(AUTOMATON_BYTES_MAX))
            .which_captures(WhichCaptures::None);
        let table = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(TABLE_BYTES_MAX))
            .determinize_size_limit(Some(BUILD_BYTES_MAX));
        let built = dense::Builder::new()
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .thompson(automaton)
            .configure(table)
            .build(pattern);
        built.map(Self).map_err(|error| {
            if error.is_size_limit_exceeded() {
                return format!("its table would take more than {} KiB", TABLE_BYTES_MAX / 1024);
            }
            // The syntax is described by the innermost error, over several lines: the last one says it.
            let mut inner: &dyn std::error::Error = &error;
            while let Some(source) = inner.source() {
                inner = source;
            }
            let text = inner.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        })
    }

    /// Whether it is found in a text; `None`: it cannot tell.
    pub(super) fn is_match(&self, text: &str) -> Option<bool> {
        let found = self.0.try_search_fwd(&Input::new(text).earliest(true)).ok()?;
        Some(found.is_some())
    }

    /// Size of its table, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.0.memory_usage()
    }
}
