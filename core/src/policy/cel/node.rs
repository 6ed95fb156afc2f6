//! A checked expression: its types fit, and all that can be computed beforehand is.

use super::regex::Regex;

/// What an expression is made of.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Bool(bool),
    Int(i64),
    Text(String),
    /// A list literal; only on the right of `in`.
    Texts(Vec<String>),
    /// A list literal; only on the right of `in`.
    Ints(Vec<i64>),
    Variable(Variable),
    /// A request header, by its lower-case name.
    Header(String),
    /// `request`, `connection` or `request.headers`: never left over in a checked expression.
    Object,
    Not(Box<Node>),
    /// At least two.
    And(Vec<Node>),
    /// At least two.
    Or(Vec<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    /// Element, list.
    In(Box<Node>, Box<Node>),
    /// Whether the request has this header.
    HasHeader(Box<Node>),
    /// Function, text, argument.
    Test(Test, Box<Node>, Box<Node>),
    Matches(Box<Node>, Box<Regex>),
    Lower(Box<Node>),
    /// Length in characters.
    Size(Box<Node>),
}

/// What is known when an exchange is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Method,
    Path,
    Query,
    Host,
    Port,
    Direction,
    PeerAddress,
}

/// Order of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A function of two texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Contains,
    StartsWith,
    EndsWith,
}

/// The type of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int,
    Text,
    Texts,
    Ints,
    /// A list without elements: of any type.
    Nothing,
    Request,
    Connection,
    Headers,
}

impl Kind {
    /// As it stands in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool => "a bool",
            Self::Int => "an int",
            Self::Text => "a string",
            Self::Texts | Self::Ints | Self::Nothing => "a list",
            Self::Request => "`request`",
            Self::Connection => "`connection`",
            Self::Headers => "`request.headers`",
        }
    }
}

impl Comparison {
    /// The comparison of a sign.
    pub(super) fn of(sign: &str) -> Option<Self> {
        Some(match sign {
            "==" => Self::Equal,
            "!=" => Self::NotEqual,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    /// Whether it holds for values that compare so.
    pub(super) fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}
