//! Expressions of a rule's `when`: a strict subset of the Common Expression Language.
//!
//! They are true or false, over `request` and `connection`, as known when an exchange begins. Names and types are checked
//! when an expression is compiled, and there are no loops: what is accepted costs little and cannot fail but in the ways
//! that [`Undecided`] names. Patterns are matched in linear time.

mod check;
mod error;
mod eval;
mod lex;
mod node;
mod parse;
mod regex;
#[cfg(test)]
mod tests;

pub use error::ExpressionError;

use super::Facts;
use super::judge::{normalise, until_query};
use error::At;
use eval::Evaluation;
use node::{Node, Variable};

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1024;

/// Why an expression is neither true nor false for an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// It asks for the request of an exchange that is not HTTP.
    NotHttp,
    /// It asks for a header that the request does not have.
    NoHeader,
    /// The request's path means several ones, and the rule matches some of them only, or it steps up or has a `#`, so that
    /// applications differ in what it means.
    AmbiguousPath,
    /// There is too much text to look at.
    TooLong,
}

impl Undecided {
    /// As it stands in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotHttp => "not_http",
            Self::NoHeader => "no_header",
            Self::AmbiguousPath => "ambiguous_path",
            Self::TooLong => "too_long",
        }
    }
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Expression {
    root: Node,
    reads_path: bool,
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Where it is wrong, why, and what to do.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let problem = format!("the expression has {} bytes, more than {EXPRESSION_BYTES_MAX}", text.len());
            return Err(At(0).error(text, problem, "split the rule into several"));
        }
        let root = parse::parse(text)?;
        let reads_path = any(&root, &|node| matches!(node, Node::Variable(Variable::Path)));
        Ok(Self { root, reads_path })
    }

    /// Evaluates it. Never panics; looks at a bounded number of bytes.
    ///
    /// # Errors
    /// Why it is neither true nor false.
    pub fn evaluate(&self, facts: &Facts<'_>) -> Result<bool, Undecided> {
        let path = facts.path.unwrap_or_default();
        let as_sent = Evaluation::new(facts, Some(path)).bool(&self.root)?;
        if !self.reads_path {
            return Ok(as_sent);
        }
        // `/healthz/../admin` is not `/healthz`, whatever the application makes of it.
        let normal = normalise(path);
        if normal.as_deref() == Some(path) {
            return Ok(as_sent);
        }
        let normal = normal.as_deref();
        let cut = normal.map(until_query);
        let agrees = |form| Evaluation::new(facts, form).bool(&self.root).map(|of_form| of_form == as_sent);
        if agrees(normal)? && (cut == normal || agrees(cut)?) { Ok(as_sent) } else { Err(Undecided::AmbiguousPath) }
    }

    /// Memory of its patterns, in bytes.
    pub fn pattern_bytes(&self) -> usize {
        let sum = std::cell::Cell::new(0_usize);
        any(&self.root, &|node| {
            if let Node::Matches(_, regex) = node {
                sum.set(sum.get().saturating_add(regex.memory_bytes()));
            }
            false
        });
        sum.get()
    }
}

/// Whether a node of an expression is so; looks at each until one is.
fn any(node: &Node, is: &dyn Fn(&Node) -> bool) -> bool {
    is(node)
        || match node {
            Node::Not(inner)
            | Node::HasHeader(inner)
            | Node::Matches(inner, _)
            | Node::Lower(inner)
            | Node::Size(inner) => any(inner, is),
            Node::And(parts) | Node::Or(parts) => parts.iter().any(|part| any(part, is)),
            Node::Compare(_, left, right) | Node::In(left, right) | Node::Test(_, left, right) => {
                any(left, is) || any(right, is)
            }
            _ => false,
        }
}
