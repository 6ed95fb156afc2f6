//! Evaluation: total, without recursion deeper than the expression, and within a budget.

use super::Undecided;
use super::node::{Comparison, Node, Test, Variable};
use crate::policy::{Direction, Facts};
use std::borrow::Cow;
use std::cell::Cell;

/// Most bytes that one evaluation looks at.
const EVALUATION_BYTES_MAX: usize = 256 * 1024;

/// One evaluation.
pub(super) struct Evaluation<'a> {
    facts: &'a Facts<'a>,
    path: Option<&'a str>,
    budget: Cell<usize>,
}

impl<'a> Evaluation<'a> {
    /// On these facts, with `path` as `request.path`; `None`: nobody knows what the path means.
    pub(super) fn new(facts: &'a Facts<'a>, path: Option<&'a str>) -> Self {
        Self { facts, path, budget: Cell::new(EVALUATION_BYTES_MAX) }
    }

    fn charge(&self, bytes: usize) -> Result<(), Undecided> {
        let left = self.budget.get().checked_sub(bytes.saturating_add(1)).ok_or(Undecided::TooLong)?;
        self.budget.set(left);
        Ok(())
    }

    /// The value of an expression that is a bool.
    pub(super) fn bool(&self, node: &Node) -> Result<bool, Undecided> {
        self.charge(0)?;
        match node {
            Node::Bool(value) => Ok(*value),
            Node::Not(inner) => self.bool(inner).map(|value| !value),
            Node::And(parts) => self.join(parts, false),
            Node::Or(parts) => self.join(parts, true),
            Node::Compare(comparison, left, right) => self.compare(*comparison, left, right),
            Node::In(element, list) => self.is_in(element, list),
            Node::HasHeader(name) => {
                let name = self.text(name)?.to_ascii_lowercase();
                Ok(self.header(&name)?.is_some())
            }
            Node::Test(test, text, argument) => {
                let (text, argument) = (self.text(text)?, self.text(argument)?);
                self.charge(text.len())?;
                Ok(match test {
                    Test::Contains => text.contains(argument.as_ref()),
                    Test::StartsWith => text.starts_with(argument.as_ref()),
                    Test::EndsWith => text.ends_with(argument.as_ref()),
                })
            }
            Node::Matches(text, regex) => {
                let text = self.text(text)?;
                self.charge(text.len())?;
                regex.is_match(&text).ok_or(Undecided::TooLong)
            }
            // The checker lets no other node be a bool.
            _ => Err(Undecided::TooLong),
        }
    }

    /// CEL's logic: one part that decides is enough, whatever cannot be decided beside it.
    fn join(&self, parts: &[Node], decides: bool) -> Result<bool, Undecided> {
        let mut undecided = None;
        for part in parts {
            match self.bool(part) {
                Ok(value) if value == decides => return Ok(decides),
                Ok(_) => {}
                Err(error) => undecided = undecided.or(Some(error)),
            }
        }
        undecided.map_or(Ok(!decides), Err)
    }

    fn compare(&self, comparison: Comparison, left: &Node, right: &Node) -> Result<bool, Undecided> {
        let order = match left {
            _ if is_text(left) => {
                let (left, right) = (self.text(left)?, self.text(right)?);
                self.charge(left.len())?;
                left.cmp(&right)
            }
            _ if is_int(left) => self.int(left)?.cmp(&self.int(right)?),
            _ => self.bool(left)?.cmp(&self.bool(right)?),
        };
        Ok(comparison.holds(order))
    }

    fn is_in(&self, element: &Node, list: &Node) -> Result<bool, Undecided> {
        match list {
            Node::Texts(list) => {
                let text = self.text(element)?;
                self.charge(text.len().saturating_add(list.len()))?;
                Ok(list.iter().any(|item| *item == text))
            }
            Node::Ints(list) => Ok(list.contains(&self.int(element)?)),
            _ => Err(Undecided::TooLong),
        }
    }

    /// The value of an expression that is a string.
    fn text<'n>(&'n self, node: &'n Node) -> Result<Cow<'n, str>, Undecided> {
        self.charge(0)?;
        match node {
            Node::Text(text) => Ok(Cow::Borrowed(text)),
            Node::Variable(variable) => self.variable(*variable),
            Node::Header(name) => self.header(name)?.ok_or(Undecided::NoHeader),
            Node::Lower(inner) => {
                let text = self.text(inner)?;
                self.charge(text.len())?;
                Ok(Cow::Owned(text.to_ascii_lowercase()))
            }
            _ => Err(Undecided::TooLong),
        }
    }

    fn variable(&self, variable: Variable) -> Result<Cow<'_, str>, Undecided> {
        let method = self.facts.method.ok_or(Undecided::NotHttp);
        match variable {
            Variable::Method => method.map(Cow::Borrowed),
            Variable::Path => method.and_then(|_| self.path.map(Cow::Borrowed).ok_or(Undecided::AmbiguousPath)),
            Variable::Query => method.map(|_| Cow::Borrowed(self.facts.query.unwrap_or_default())),
            Variable::Host => method.map(|_| host(self.facts.authority.unwrap_or_default())),
            Variable::Direction => Ok(Cow::Borrowed(match self.facts.direction {
                Direction::Inbound => "Inbound",
                Direction::Outbound => "Outbound",
            })),
            Variable::PeerAddress => {
                Ok(Cow::Owned(self.facts.peer.map(|peer| peer.to_canonical().to_string()).unwrap_or_default()))
            }
            Variable::Port => Err(Undecided::TooLong),
        }
    }

    /// A header's value; several lines of one name are joined by a comma (RFC 9110 section 5.3).
    fn header(&self, name: &str) -> Result<Option<Cow<'_, str>>, Undecided> {
        self.facts.method.ok_or(Undecided::NotHttp)?;
        let Some(headers) = self.facts.headers else { return Ok(None) };
        let mut value: Option<Cow<'_, [u8]>> = None;
        for field in headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)) {
            value = Some(match value.take() {
                None => Cow::Borrowed(field.value),
                Some(known) => Cow::Owned([&known, &b", "[..], field.value].concat()),
            });
        }
        self.charge(value.as_ref().map_or(0, |value| value.len()))?;
        Ok(value.map(|value| match value {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }))
    }

    /// The value of an expression that is an int.
    fn int(&self, node: &Node) -> Result<i64, Undecided> {
        self.charge(0)?;
        match node {
            Node::Int(value) => Ok(*value),
            Node::Variable(Variable::Port) => Ok(i64::from(self.facts.port)),
            Node::Size(text) => {
                let text = self.text(text)?;
                self.charge(text.len())?;
                Ok(i64::try_from(text.chars().count()).unwrap_or(i64::MAX))
            }
            _ => Err(Undecided::TooLong),
        }
    }
}

fn is_text(node: &Node) -> bool {
    matches!(node, Node::Text(_) | Node::Header(_) | Node::Lower(_))
        || matches!(node, Node::Variable(v) if *v != Variable::Port)
}

fn is_int(node: &Node) -> bool {
    matches!(node, Node::Int(_) | Node::Size(_) | Node::Variable(Variable::Port))
}

/// The host of an authority, in lower case: without user and port.
fn host(authority: &str) -> Cow<'_, str> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(host, _)| host),
    };
    match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}
