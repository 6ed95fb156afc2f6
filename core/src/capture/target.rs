//! The parts of a request target (RFC 9112 section 3.2).

/// A request target in parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target<'a> {
    /// Of the absolute or authority form, with userinfo as sent.
    pub authority: Option<&'a str>,
    /// Empty in the authority form.
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Takes a target apart; whatever it is, all of it ends up in some part.
    pub fn parse(method: &str, target: &'a str) -> Self {
        if method == "CONNECT" {
            return Self { authority: Some(target), ..Self::default() };
        }
        // Nearly every target begins with its path, and has no scheme to look for. Any scheme counts: a proxy is asked for
        // ftp:// too, and what stands before the host may be a password.
        let absolute = if target.starts_with('/') { None } else { target.split_once("://") };
        let (authority, rest) = match absolute {
            Some((scheme, rest)) if is_scheme(scheme) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, rest) = rest.split_at(end);
                (Some(authority), rest)
            }
            _ => (None, target),
        };
        // A `#` has no place in a target, and servers differ in whether it ends the path: it stays where it was sent.
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        Self { authority, path, query }
    }
}

/// RFC 3986, section 3.1.
fn is_scheme(text: &str) -> bool {
    let more = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let parts = |method, target| {
            let t = Target::parse(method, target);
            (t.authority, t.path, t.query)
        };
        assert_eq!(parts("GET", "/a?b=c?d"), (None, "/a", Some("b=c?d")));
        assert_eq!(parts("GET", "http://u@h:1/a?b"), (Some("u@h:1"), "/a", Some("b")));
        assert_eq!(parts("GET", "http://h?b"), (Some("h"), "", Some("b")));
        assert_eq!(parts("GET", "ftp://u:p@h/x"), (Some("u:p@h"), "/x", None));
        assert_eq!(parts("GET", "WS+x-1.0://u:p@h#f"), (Some("u:p@h"), "#f", None));
        assert_eq!(parts("GET", "/a#/../b"), (None, "/a#/../b", None));
        assert_eq!(parts("GET", "/a?b#c?d"), (None, "/a", Some("b#c?d")));
        assert_eq!(parts("GET", "/ftp://u:p@h/x?a"), (None, "/ftp://u:p@h/x", Some("a")));
        assert_eq!(parts("GET", "1ftp://h/x"), (None, "1ftp://h/x", None));
        assert_eq!(parts("GET", "://h/x"), (None, "://h/x", None));
        assert_eq!(parts("GET", "a/b://h/x"), (None, "a/b://h/x", None));
        assert_eq!(parts("CONNECT", "h:443"), (Some("h:443"), "", None));
        assert_eq!(parts("OPTIONS", "*"), (None, "*", None));
        assert_eq!(parts("GET", "/r?to=http://x/"), (None, "/r", Some("to=http://x/")));
    }
}
