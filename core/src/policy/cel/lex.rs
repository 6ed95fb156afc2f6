//! Tokens of an expression.

use super::error::{At, ExpressionError};

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or a word of the language.
    Name(String),
    /// A string literal, unescaped.
    Text(String),
    /// An integer literal without its sign.
    Int(i64),
    /// An operator or a bracket.
    Sign(&'static str),
    /// The end.
    End,
}

impl Token {
    /// As it stands in messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Name(name) => format!("`{name}`"),
            Self::Text(_) => "a string".to_owned(),
            Self::Int(value) => format!("`{value}`"),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end".to_owned(),
        }
    }
}

/// Longer ones first.
const SIGNS: [&str; 22] = [
    "||", "&&", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ".", ",", "-", "+", "*", "/", "%", "?", ":",
];

/// Takes an expression apart; each token with where it begins. The last one is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(At, Token)>, ExpressionError> {
    let mut lexer = Lexer { text, at: 0, out: Vec::new() };
    while lexer.next()? {}
    Ok(lexer.out)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    out: Vec<(At, Token)>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn error(&self, at: usize, problem: impl Into<String>, fix: impl Into<String>) -> ExpressionError {
        At(at).error(self.text, problem, fix)
    }

    fn push(&mut self, bytes: usize, token: Token) {
        self.out.push((At(self.at), token));
        self.at = self.at.saturating_add(bytes);
    }

    /// Reads one token; `false` at the end.
    fn next(&mut self) -> Result<bool, ExpressionError> {
        let blank = self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at = self.at.saturating_add(blank);
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            self.push(0, Token::End);
            return Ok(false);
        };
        let second = rest.chars().nth(1);
        match first {
            'r' | 'R' if matches!(second, Some('"' | '\'')) => self.text_literal(1, true)?,
            'b' | 'B' if matches!(second, Some('"' | '\'')) => {
                return Err(self.error(self.at, "byte strings are not available", "use a string, such as 'x'"));
            }
            '"' | '\'' => self.text_literal(0, false)?,
            '0'..='9' => self.int_literal()?,
            'a'..='z' | 'A'..='Z' | '_' => {
                let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                self.push(name.len(), Token::Name(name));
            }
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => self.push(sign.len(), Token::Sign(sign)),
                None => {
                    let fix = if first == '=' { "compare with ==" } else { "remove it, or put text into quotes" };
                    return Err(self.error(self.at, format!("{first:?} has no meaning here"), fix));
                }
            },
        }
        Ok(true)
    }

    fn int_literal(&mut self) -> Result<(), ExpressionError> {
        let word: String = self.rest().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let after = self.rest().get(word.len()..).unwrap_or_default();
        let fraction = after.strip_prefix('.').is_some_and(|digits| digits.starts_with(|c: char| c.is_ascii_digit()));
        let value = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => word.parse(),
        };
        match value {
            Ok(value) if !fraction => self.push(word.len(), Token::Int(value)),
            _ => {
                let fix = "use a whole number, such as 8080";
                return Err(self.error(self.at, format!("`{word}` begins no whole number of 64 bits"), fix));
            }
        }
        Ok(())
    }

    fn text_literal(&mut self, prefix: usize, raw: bool) -> Result<(), ExpressionError> {
        let body = self.rest().get(prefix..).unwrap_or_default();
        if body.starts_with("\"\"\"") || body.starts_with("'''") {
            return Err(self.error(self.at, "triple quotes are not available", "use single or double quotes"));
        }
        let mut chars = body.char_indices();
        let Some((_, quote)) = chars.next() else { return Ok(()) };
        let mut text = String::new();
        while let Some((offset, c)) = chars.next() {
            if c == quote {
                self.push(prefix + offset + quote.len_utf8(), Token::Text(text));
                return Ok(());
            }
            if c == '\n' || c == '\r' {
                break;
            }
            if c != '\\' || raw {
                text.push(c);
                continue;
            }
            match escape(&mut chars) {
                Some(c) => text.push(c),
                None => {
                    let fix = "use \\n, \\t, \\r, \\\\, \\', \\\", \\xHH or \\uHHHH, or a raw string such as r'\\d+'";
                    return Err(self.error(self.at + prefix + offset, "this escape is not known", fix));
                }
            }
        }
        Err(self.error(self.at, "the string has no end", format!("close it with {quote}")))
    }
}

/// The character of an escape, after its backslash.
fn escape(chars: &mut std::str::CharIndices<'_>) -> Option<char> {
    let (_, c) = chars.next()?;
    let mut hex = |digits: usize| {
        let mut value = 0_u32;
        for _ in 0..digits {
            value = value.wrapping_mul(16).wrapping_add(chars.next()?.1.to_digit(16)?);
        }
        char::from_u32(value)
    };
    match c {
        'n' => Some('\n'),
        't' => Some('\t'),
        'r' => Some('\r'),
        '\\' | '\'' | '"' | '`' | '?' => Some(c),
        'x' | 'X' => hex(2),
        'u' => hex(4),
        'U' => hex(8),
        _ => None,
    }
}
