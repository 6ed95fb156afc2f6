//! What names, fields and functions there are, and which types fit together.

use super::error::{At, ExpressionError};
use super::lex::Token;
use super::node::{Comparison, Kind, Node, Test, Variable};
use super::parse::{PATTERNS_MAX, Parser};
use super::regex::Regex;

/// A part of an expression, with its type and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    pub(super) node: Node,
    pub(super) kind: Kind,
    pub(super) at: At,
}

type Checked<T> = Result<T, ExpressionError>;

const REQUEST_FIELDS: [(&str, Variable); 4] =
    [("method", Variable::Method), ("path", Variable::Path), ("query", Variable::Query), ("host", Variable::Host)];

const CONNECTION_FIELDS: [(&str, Variable); 3] =
    [("port", Variable::Port), ("direction", Variable::Direction), ("peerAddress", Variable::PeerAddress)];

/// Functions of a string, called as `text.name(...)`.
const METHODS: &str = "contains, startsWith, endsWith, matches, lowerAscii and size";

/// CEL's comprehensions, which could run for long.
const MACROS: [&str; 6] = ["all", "exists", "exists_one", "filter", "map", "has"];

/// Refuses what would loop.
pub(super) fn no_macro(parser: &Parser<'_>, at: At, name: &str) -> Checked<()> {
    match name {
        "has" => {
            let fix = "write 'x-name' in request.headers; all other fields are always there";
            Err(parser.error(at, "`has` is not available", fix))
        }
        _ if MACROS.contains(&name) => {
            let fix = "write the conditions out, or use `in` with a list";
            Err(parser.error(at, format!("`{name}` is not available: expressions have no loops"), fix))
        }
        _ => Ok(()),
    }
}

/// Takes a part that must be a bool.
pub(super) fn bool(parser: &Parser<'_>, sign: &str, at: At, part: Typed) -> Checked<Node> {
    match part.kind {
        Kind::Bool => Ok(part.node),
        other => {
            let problem = format!("`{sign}` joins conditions, not {}", other.name());
            Err(parser.error(if sign == "!" { at } else { part.at }, problem, "compare it with something"))
        }
    }
}

/// A name that stands alone.
pub(super) fn name(parser: &Parser<'_>, at: At, name: &str) -> Checked<(Kind, Node)> {
    match name {
        "true" => Ok((Kind::Bool, Node::Bool(true))),
        "false" => Ok((Kind::Bool, Node::Bool(false))),
        "request" => Ok((Kind::Request, Node::Object)),
        "connection" => Ok((Kind::Connection, Node::Object)),
        "response" => {
            let fix = "use request and connection";
            Err(parser.error(at, "`response` is not known: a rule is chosen when the request begins", fix))
        }
        _ => Err(parser.error(at, format!("`{name}` is not known"), "use request, connection, or text in quotes")),
    }
}

/// `object.name`.
pub(super) fn field(parser: &Parser<'_>, at: At, name: &str, object: &Typed) -> Checked<(Kind, Node)> {
    let (fields, list) = match object.kind {
        Kind::Request if name == "headers" => return Ok((Kind::Headers, Node::Object)),
        Kind::Request => (&REQUEST_FIELDS[..], "method, path, query, host and headers"),
        Kind::Connection => (&CONNECTION_FIELDS[..], "port, direction and peerAddress"),
        Kind::Headers => {
            let fix = format!("write request.headers['{name}']");
            return Err(parser.error(at, "a header is not a field", fix));
        }
        other => {
            let fix = format!("remove .{name}");
            return Err(parser.error(at, format!("{} has no fields", other.name()), fix));
        }
    };
    match fields.iter().find(|(known, _)| *known == name) {
        Some((_, variable @ Variable::Port)) => Ok((Kind::Int, Node::Variable(*variable))),
        Some((_, variable)) => Ok((Kind::Text, Node::Variable(*variable))),
        None => {
            let problem = format!("{} has no field `{name}`", object.kind.name());
            Err(parser.error(at, problem, format!("it has {list}")))
        }
    }
}

/// `object[index]`.
pub(super) fn index(parser: &Parser<'_>, at: At, object: &Typed, index_at: At, index: Token) -> Checked<Node> {
    if object.kind != Kind::Headers {
        let problem = format!("{} has no elements to choose from", object.kind.name());
        return Err(parser.error(at, problem, "only request.headers['x-name'] has"));
    }
    match index {
        Token::Text(name) => Ok(Node::Header(header_name(parser, index_at, &name)?)),
        other => {
            let problem = format!("a header is chosen by its name, not by {}", other.describe());
            Err(parser.error(index_at, problem, "write request.headers['x-name']"))
        }
    }
}

fn header_name(parser: &Parser<'_>, at: At, name: &str) -> Checked<String> {
    let name = name.to_ascii_lowercase();
    match super::super::judge::is_field_name(&name) {
        true => Ok(name),
        false => Err(parser.error(at, format!("{name:?} is no header name"), "use letters, digits and dashes")),
    }
}

/// `left < right` and its like.
pub(super) fn compare(
    parser: &Parser<'_>,
    at: At,
    comparison: Comparison,
    sign: &str,
    left: Typed,
    right: Typed,
) -> Checked<Node> {
    if left.kind != right.kind {
        let problem = format!("{sign} compares {} with {}", left.kind.name(), right.kind.name());
        return Err(parser.error(at, problem, "compare values of one type"));
    }
    let ordered = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    match left.kind {
        Kind::Bool if ordered => Err(parser.error(at, format!("{sign} does not order bools"), "use == or !=")),
        Kind::Bool | Kind::Int | Kind::Text => Ok(Node::Compare(comparison, Box::new(left.node), Box::new(right.node))),
        other => {
            let problem = format!("{sign} does not compare {}", other.name());
            Err(parser.error(at, problem, "compare a string, an int or a bool"))
        }
    }
}

/// `left in right`.
pub(super) fn element(parser: &Parser<'_>, at: At, left: Typed, right: Typed) -> Checked<Node> {
    match (left.kind, right.kind) {
        (Kind::Text, Kind::Headers) => {
            let name = match left.node {
                Node::Text(name) => Node::Text(header_name(parser, left.at, &name)?),
                other => other,
            };
            Ok(Node::HasHeader(Box::new(name)))
        }
        (Kind::Text, Kind::Texts) | (Kind::Int, Kind::Ints) => Ok(Node::In(Box::new(left.node), Box::new(right.node))),
        (Kind::Text | Kind::Int, Kind::Nothing) => Ok(Node::Bool(false)),
        (_, Kind::Texts | Kind::Ints | Kind::Nothing) => {
            let problem = format!("`in` looks for {} in a list of another type", left.kind.name());
            Err(parser.error(at, problem, "use elements of the same type"))
        }
        (_, other) => {
            let problem = format!("`in` looks into a list or request.headers, not into {}", other.name());
            Err(parser.error(at, problem, "write a list, such as ['a', 'b'], or use contains"))
        }
    }
}

/// `object.name(arguments)`.
pub(super) fn method(
    parser: &mut Parser<'_>,
    at: At,
    name: &str,
    object: Typed,
    arguments: Vec<Typed>,
) -> Checked<(Kind, Node)> {
    let test = match name {
        "contains" => Some(Test::Contains),
        "startsWith" => Some(Test::StartsWith),
        "endsWith" => Some(Test::EndsWith),
        "matches" => None,
        "lowerAscii" => {
            no_arguments(parser, at, name, &arguments)?;
            let text = text(parser, at, name, object)?;
            return Ok((Kind::Text, Node::Lower(text)));
        }
        "size" => {
            no_arguments(parser, at, name, &arguments)?;
            let text = text(parser, at, name, object)?;
            return Ok((Kind::Int, Node::Size(text)));
        }
        _ => {
            let fix = format!("strings have {METHODS}");
            return Err(parser.error(at, format!("the function `{name}` is not known"), fix));
        }
    };
    let object = text(parser, at, name, object)?;
    let mut arguments = arguments.into_iter();
    let (Some(argument), None) = (arguments.next(), arguments.next()) else {
        return Err(parser.error(at, format!("`{name}` takes one argument"), "give it one string"));
    };
    match test {
        Some(test) => {
            let argument = text(parser, argument.at, name, argument)?;
            Ok((Kind::Bool, Node::Test(test, object, argument)))
        }
        None => Ok((Kind::Bool, Node::Matches(object, Box::new(pattern(parser, argument)?)))),
    }
}

/// `name(arguments)`.
pub(super) fn function(parser: &mut Parser<'_>, at: At, name: &str, arguments: Vec<Typed>) -> Checked<(Kind, Node)> {
    let mut arguments = arguments.into_iter();
    match (name, arguments.next()) {
        ("size" | "matches", Some(first)) => method(parser, at, name, first, arguments.collect()),
        ("size" | "matches", None) => {
            Err(parser.error(at, format!("`{name}` needs a string"), format!("write request.path.{name}(...)")))
        }
        _ => {
            let fix = format!("there is size(text), and strings have {METHODS}");
            Err(parser.error(at, format!("the function `{name}` is not known"), fix))
        }
    }
}

fn pattern(parser: &mut Parser<'_>, argument: Typed) -> Checked<Regex> {
    let Node::Text(pattern) = argument.node else {
        let fix = "write it as a literal, such as r'^/v[0-9]+/'";
        return Err(parser.error(argument.at, "the pattern of `matches` must be a literal", fix));
    };
    parser.patterns = parser.patterns.saturating_add(1);
    if parser.patterns > PATTERNS_MAX {
        let fix = "split the rule into several, or join patterns with |";
        return Err(parser.error(argument.at, format!("there are more than {PATTERNS_MAX} patterns"), fix));
    }
    Regex::new(&pattern).map_err(|problem| {
        let fix = "use a smaller pattern in the syntax of RE2";
        parser.error(argument.at, format!("the pattern cannot be used: {problem}"), fix)
    })
}

fn text(parser: &Parser<'_>, at: At, function: &str, part: Typed) -> Checked<Box<Node>> {
    match part.kind {
        Kind::Text => Ok(Box::new(part.node)),
        other => {
            let problem = format!("`{function}` works on strings, not on {}", other.name());
            Err(parser.error(at, problem, "give it a string"))
        }
    }
}

fn no_arguments(parser: &Parser<'_>, at: At, name: &str, arguments: &[Typed]) -> Checked<()> {
    match arguments.is_empty() {
        true => Ok(()),
        false => Err(parser.error(at, format!("`{name}` takes no argument here"), "leave the brackets empty")),
    }
}
