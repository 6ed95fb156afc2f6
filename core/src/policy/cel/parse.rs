//! Recursive descent over the tokens. Each construct is checked by [`super::check`] as soon as its parts are known.

use super::check::{self, Typed};
use super::error::{At, ExpressionError};
use super::lex::{Token, tokens};
use super::node::{Comparison, Kind, Node};

/// Deepest nesting of brackets, `!` and calls.
pub(super) const DEPTH_MAX: usize = 16;

/// Most parts of an expression: operands, operators, calls.
pub(super) const NODES_MAX: usize = 128;

/// Most elements of a list.
pub(super) const LIST_ITEMS_MAX: usize = 64;

/// Most patterns for `matches`.
pub(super) const PATTERNS_MAX: usize = 4;

/// Parses and checks an expression; what comes out is a bool.
pub(super) fn parse(text: &str) -> Result<Node, ExpressionError> {
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0, depth: 0, nodes: 0, patterns: 0 };
    let whole = parser.or()?;
    let (at, token) = parser.peek();
    if token != Token::End {
        let fix = "join conditions with && or ||";
        return Err(at.error(text, format!("{} is not expected here", token.describe()), fix));
    }
    if whole.kind != Kind::Bool {
        let problem = format!("the expression is {}, not true or false", whole.kind.name());
        return Err(whole.at.error(text, problem, "compare it with something"));
    }
    Ok(whole.node)
}

/// What is left to read, and what was used of the limits.
pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    tokens: Vec<(At, Token)>,
    next: usize,
    depth: usize,
    nodes: usize,
    pub(super) patterns: usize,
}

type Parsed = Result<Typed, ExpressionError>;

impl Parser<'_> {
    pub(super) fn error(&self, at: At, problem: impl Into<String>, fix: impl Into<String>) -> ExpressionError {
        at.error(self.text, problem, fix)
    }

    fn peek(&self) -> (At, Token) {
        self.tokens.get(self.next).cloned().unwrap_or((At(self.text.len()), Token::End))
    }

    fn advance(&mut self) -> (At, Token) {
        let token = self.peek();
        self.next = self.next.saturating_add(1);
        token
    }

    /// Takes a sign if it is the next token.
    fn take(&mut self, sign: &str) -> Option<At> {
        let (at, token) = self.peek();
        let is = matches!(token, Token::Sign(found) if found == sign);
        if is {
            self.advance();
        }
        is.then_some(at)
    }

    fn expect(&mut self, sign: &str) -> Result<(), ExpressionError> {
        let (at, token) = self.peek();
        match self.take(sign) {
            Some(_) => Ok(()),
            None => Err(self.error(at, format!("`{sign}` is missing before {}", token.describe()), "add it")),
        }
    }

    /// Counts one part of the expression.
    fn node(&mut self, at: At, kind: Kind, node: Node) -> Parsed {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > NODES_MAX {
            let fix = "split the rule into several";
            return Err(self.error(at, format!("the expression has more than {NODES_MAX} parts"), fix));
        }
        Ok(Typed { node, kind, at })
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, ExpressionError>) -> Result<T, ExpressionError> {
        if self.depth >= DEPTH_MAX {
            let (at, _) = self.peek();
            let fix = "use fewer brackets";
            return Err(self.error(at, format!("brackets and ! are nested more than {DEPTH_MAX} deep"), fix));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn or(&mut self) -> Parsed {
        let parsed = self.chain("||", Self::and, Node::Or)?;
        if let Some(at) = self.take("?") {
            let fix = "write it with && and ||, or use two rules";
            return Err(self.error(at, "`?` is not available", fix));
        }
        Ok(parsed)
    }

    fn and(&mut self) -> Parsed {
        self.chain("&&", Self::relation, Node::And)
    }

    fn chain(&mut self, sign: &str, part: fn(&mut Self) -> Parsed, join: fn(Vec<Node>) -> Node) -> Parsed {
        let first = part(self)?;
        let at = first.at;
        let mut sign_at = match self.take(sign) {
            Some(at) => at,
            None => return Ok(first),
        };
        let mut parts = vec![check::bool(self, sign, sign_at, first)?];
        loop {
            let next = part(self)?;
            parts.push(check::bool(self, sign, sign_at, next)?);
            match self.take(sign) {
                Some(at) => sign_at = at,
                None => return self.node(at, Kind::Bool, join(parts)),
            }
        }
    }

    fn relation(&mut self) -> Parsed {
        let left = self.sum()?;
        let (at, token) = self.peek();
        let comparison = match &token {
            Token::Sign(sign) => Comparison::of(sign),
            Token::Name(name) if name == "in" => None,
            _ => return Ok(left),
        };
        if comparison.is_none() && !matches!(token, Token::Name(_)) {
            return Ok(left);
        }
        self.advance();
        let right = self.sum()?;
        let start = left.at;
        let node = match comparison {
            Some(comparison) => check::compare(self, at, comparison, &token.describe(), left, right)?,
            None => check::element(self, at, left, right)?,
        };
        let (again, token) = self.peek();
        if matches!(&token, Token::Sign(sign) if Comparison::of(sign).is_some()) {
            return Err(self.error(again, "comparisons cannot be chained", "join them with &&"));
        }
        self.node(start, Kind::Bool, node)
    }

    /// Arithmetic is not available; it is read only to say so.
    fn sum(&mut self) -> Parsed {
        let operand = self.unary()?;
        let (at, token) = self.peek();
        match token {
            Token::Sign(sign @ ("+" | "-" | "*" | "/" | "%")) => {
                let fix = "compute it beforehand and write the result";
                Err(self.error(at, format!("arithmetic with `{sign}` is not available"), fix))
            }
            _ => Ok(operand),
        }
    }

    fn unary(&mut self) -> Parsed {
        if let Some(at) = self.take("!") {
            let inner = self.nested(Self::unary)?;
            let inner = check::bool(self, "!", at, inner)?;
            return self.node(at, Kind::Bool, Node::Not(Box::new(inner)));
        }
        if let Some(at) = self.take("-") {
            let (_, token) = self.advance();
            let Token::Int(value) = token else {
                return Err(self.error(at, "`-` needs a number after it", "write a number, such as -1"));
            };
            return self.node(at, Kind::Int, Node::Int(value.saturating_neg()));
        }
        let mut operand = self.primary()?;
        loop {
            operand = if self.take(".").is_some() {
                self.member(operand)?
            } else if let Some(at) = self.take("[") {
                let (index_at, index) = self.advance();
                let node = check::index(self, at, &operand, index_at, index)?;
                self.expect("]")?;
                self.node(operand.at, Kind::Text, node)?
            } else {
                return Ok(operand);
            };
        }
    }

    fn member(&mut self, object: Typed) -> Parsed {
        let (at, token) = self.advance();
        let Token::Name(name) = token else {
            let problem = format!("a name is missing after `.`, there is {}", token.describe());
            return Err(self.error(at, problem, "name a field or a function"));
        };
        let start = object.at;
        if self.take("(").is_some() {
            check::no_macro(self, at, &name)?;
            let arguments = self.arguments()?;
            let (kind, node) = check::method(self, at, &name, object, arguments)?;
            return self.node(start, kind, node);
        }
        let (kind, node) = check::field(self, at, &name, &object)?;
        self.node(start, kind, node)
    }

    fn arguments(&mut self) -> Result<Vec<Typed>, ExpressionError> {
        let mut arguments = Vec::new();
        if self.take(")").is_some() {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.nested(Self::or)?);
            if self.take(",").is_none() {
                self.expect(")")?;
                return Ok(arguments);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let (at, token) = self.advance();
        match token {
            Token::Int(value) => self.node(at, Kind::Int, Node::Int(value)),
            Token::Text(text) => self.node(at, Kind::Text, Node::Text(text)),
            Token::Sign("(") => {
                let inner = self.nested(Self::or)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => self.list(at),
            Token::Name(name) if self.take("(").is_some() => {
                check::no_macro(self, at, &name)?;
                let arguments = self.arguments()?;
                let (kind, node) = check::function(self, at, &name, arguments)?;
                self.node(at, kind, node)
            }
            Token::Name(name) => {
                let (kind, node) = check::name(self, at, &name)?;
                self.node(at, kind, node)
            }
            other => {
                let problem = format!("a value is missing, there is {}", other.describe());
                Err(self.error(at, problem, "write a value, such as request.path or 'text'"))
            }
        }
    }

    /// A list of literals, after its bracket.
    fn list(&mut self, at: At) -> Parsed {
        let (mut texts, mut ints) = (Vec::new(), Vec::new());
        while self.take("]").is_none() {
            if !(texts.is_empty() && ints.is_empty()) {
                self.expect(",")?;
            }
            let (item_at, token) = self.advance();
            match token {
                Token::Text(text) => texts.push(text),
                Token::Int(value) => ints.push(value),
                other => {
                    let problem = format!("a list holds strings or ints, not {}", other.describe());
                    return Err(self.error(item_at, problem, "write its elements as literals"));
                }
            }
            if texts.len() + ints.len() > LIST_ITEMS_MAX {
                let fix = "split the rule into several";
                return Err(self.error(item_at, format!("the list has more than {LIST_ITEMS_MAX} elements"), fix));
            }
            if !texts.is_empty() && !ints.is_empty() {
                return Err(self.error(item_at, "the list mixes strings and ints", "use one type for all elements"));
            }
        }
        let (kind, node) = match (texts.is_empty(), ints.is_empty()) {
            (true, true) => (Kind::Nothing, Node::Texts(Vec::new())),
            (true, false) => (Kind::Ints, Node::Ints(ints)),
            _ => (Kind::Texts, Node::Texts(texts)),
        };
        self.node(at, kind, node)
    }
}
