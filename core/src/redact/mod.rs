//! Redaction: the only way from a [`Record`] to a [`Redacted`] one.
//!
//! The floor holds whatever a policy says: header fields by allow-list, query values masked, and no value that looks like a
//! secret (the built-in never-list). A policy can only add to it.

mod shapes;

pub use shapes::looks_secret;

use crate::policy;
use crate::record::{Field, Record, Redacted, Side};
use memchr::{memchr, memchr2};
use shapes::{Signs, has_secret, looks_random};
use std::borrow::Cow;

/// What stands in place of a masked value.
pub const MASK: &[u8] = b"*";

/// Header fields that are kept, lower case, in byte order. Everything else is left out.
pub const HEADERS_ALLOWED: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "expect",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "last-modified",
    "origin",
    "range",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
];

/// Header fields that never stand in a record, whatever a policy asks for.
pub const HEADERS_NEVER: &[&str] = &[
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-forwarded-client-cert",
];

/// Header fields whose values stand in fields of a record besides.
const HEADERS_COPIED: &[(&str, &[Field])] = &[
    ("host", &[Field::Authority, Field::Target]),
    ("traceparent", &[Field::ClientTraceparent, Field::TraceId, Field::SpanId]),
    ("user-agent", &[Field::UserAgent]),
];

/// What holds the value of the correlation header.
const CORRELATED: &[Field] = &[Field::CorrelationId];

/// A policy's redaction, compiled.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    headers: Vec<String>,
    query: Vec<String>,
    /// Fields of a record that hold values of `headers`, whole or in part.
    copies: Vec<Field>,
}

impl Redactor {
    /// Compiles the document's redaction. Names are compared without case. `correlation` is the header of the correlation id.
    pub fn new(redact: &policy::Redact, correlation: Option<&str>) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let mut redactor = Self { headers: lower(&redact.headers), query: lower(&redact.query), copies: Vec::new() };
        let copies = HEADERS_COPIED.iter().copied().chain(correlation.map(|name| (name, CORRELATED)));
        redactor.copies =
            copies.filter(|(name, _)| redactor.names_header(name)).flat_map(|(_, fields)| fields).copied().collect();
        redactor
    }

    /// Whether a header field may be kept at all, by its name. The request path asks before it copies anything.
    pub fn keeps_header(&self, name: &str) -> bool {
        is_allowed(name) && !self.names_header(name)
    }

    fn names_header(&self, name: &str) -> bool {
        self.headers.iter().any(|redacted| redacted.eq_ignore_ascii_case(name))
    }

    fn names_query(&self, name: &[u8]) -> bool {
        let decoded = percent_decode(name);
        self.query.iter().any(|redacted| decoded.eq_ignore_ascii_case(redacted.as_bytes()))
    }
}

/// Whether the floor keeps a header field of this name, in any case.
fn is_allowed(name: &str) -> bool {
    // Few have the same length: that is quicker than a search by bytes.
    HEADERS_ALLOWED.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

/// Fields whose whole value is masked when it looks like a secret.
const SCANNED: &[Field] = &[
    Field::Actor,
    Field::ActorIssuer,
    Field::AlpnOffered,
    Field::AlpnSelected,
    Field::Authority,
    Field::ClientTraceparent,
    Field::CorrelationId,
    Field::Method,
    Field::Action,
    Field::RpcMethod,
    Field::RpcService,
    Field::Sni,
    Field::Target,
    Field::UserAgent,
];

/// Masks and leaves out what must not be recorded, and says in `redacted` in which fields (EV-2).
pub fn redact(mut record: Record, redactor: &Redactor) -> Redacted<Record> {
    let mut names = Vec::new();
    // A request without an authority has the address of its destination as target.
    let by_address = record.get(Field::Authority).is_none();
    for &field in &redactor.copies {
        if record.get(field).is_none() || field == Field::Target && by_address {
            continue;
        }
        match field {
            // Each record has one.
            Field::Target => record.set(field, MASK),
            _ => record.clear(field),
        }
        note(&mut names, field.key().as_bytes());
    }
    for &field in SCANNED {
        if record.get(field).is_some_and(hides_secret) {
            record.set(field, MASK);
            note(&mut names, field.key().as_bytes());
        }
    }
    for field in [Field::Authority, Field::Target] {
        if let Some(host) = record.get(field).and_then(without_userinfo) {
            let host = host.to_vec();
            record.set(field, &host);
            note(&mut names, b"userinfo");
        }
    }
    mask_with(&mut record, Field::Path, &mut names, mask_path);
    mask_with(&mut record, Field::RpcMethod, &mut names, mask_parameters);
    mask_with(&mut record, Field::Query, &mut names, |query| mask_query(query, redactor));
    for side in [Side::Request, Side::Response] {
        record.retain_headers(side, |name, value| {
            let text = std::str::from_utf8(name).unwrap_or_default();
            let keep = redactor.keeps_header(text) && !hides_secret(value);
            if !keep {
                note(&mut names, &[b"header:", name].concat());
            }
            keep
        });
    }
    if !names.is_empty() {
        record.set(Field::Redacted, &names);
    }
    Redacted::new(record)
}

fn note(names: &mut Vec<u8>, name: &[u8]) {
    if names.split(|&b| b == b',').any(|known| known == name) {
        return;
    }
    if !names.is_empty() {
        names.push(b',');
    }
    names.extend_from_slice(name);
}

fn mask_with(record: &mut Record, field: Field, names: &mut Vec<u8>, mask: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    if let Some(masked) = record.get(field).and_then(mask) {
        record.set(field, &masked);
        note(names, field.key().as_bytes());
    }
}

/// `user:password@host` without its userinfo.
fn without_userinfo(authority: &[u8]) -> Option<&[u8]> {
    let at = authority.iter().rposition(|&b| b == b'@')?;
    authority.get(at + 1..)
}

/// Masks segments that look like secrets and the values of parameters, and leaves out the userinfo of what is a URL. `None`:
/// nothing to mask.
fn mask_path(path: &[u8]) -> Option<Vec<u8>> {
    let mut changed = url_without_userinfo(path);
    if let Some(masked) = mask_parameters(changed.as_deref().unwrap_or(path)) {
        changed = Some(masked);
    }
    let path = changed.as_deref().unwrap_or(path);
    if !hides_secret(path) {
        return changed;
    }
    let masked: Vec<&[u8]> =
        path.split(|&b| b == b'/').map(|segment| if hides_secret(segment) { MASK } else { segment }).collect();
    let masked = masked.join(&b'/');
    // A shape that spans segments (a PEM block has slashes) leaves nothing worth keeping.
    Some(if hides_secret(&masked) { MASK.to_vec() } else { masked })
}

/// Masks the values of a path's parameters (`;name=value`), and what stands behind a `#` as a query's values are, but for
/// what reads as a path: servers differ in what they take it for. `None`: nothing to mask.
fn mask_parameters(path: &[u8]) -> Option<Vec<u8>> {
    let first = memchr2(b';', b'#', path)?;
    let hash = memchr(b'#', path).unwrap_or(path.len());
    let mut out = Vec::with_capacity(path.len());
    let (before, mut rest) = path.split_at_checked(first)?;
    out.extend_from_slice(before);
    // Each round takes a piece with the byte before it.
    while let Some((&mark, tail)) = rest.split_first() {
        let is_behind = path.len() - tail.len() > hash;
        let ends = |byte: &u8| matches!(byte, b';' | b'/' | b'#') || is_behind && *byte == b'&';
        let piece = tail.get(..tail.iter().position(ends).unwrap_or(tail.len())).unwrap_or_default();
        let name = piece.get(..memchr(b'=', piece).unwrap_or(piece.len())).unwrap_or_default();
        out.push(mark);
        rest = tail.get(piece.len()..).unwrap_or_default();
        if name.len() < piece.len() && (is_behind || mark == b';') {
            // A value behind `#` may have all that base64 has.
            let value = tail.get(name.len() + 1..).unwrap_or_default();
            let end = if is_behind { memchr(b'&', value).unwrap_or(value.len()) } else { piece.len() - name.len() - 1 };
            out.extend_from_slice(if hides_secret(name) { MASK } else { name });
            out.push(b'=');
            if end > 0 {
                out.extend_from_slice(MASK);
            }
            rest = value.get(end..).unwrap_or_default();
        } else {
            out.extend_from_slice(if is_behind && hides_token(piece) { MASK } else { piece });
        }
    }
    (out != path).then_some(out)
}

/// A target that does not begin with its path may be a URL in some form that nobody took apart. `None`: it has no userinfo.
fn url_without_userinfo(path: &[u8]) -> Option<Vec<u8>> {
    const MARK: &[u8] = b"://";
    if path.starts_with(b"/") {
        return None;
    }
    let begin = path.windows(MARK.len()).position(|bytes| bytes == MARK).map_or(0, |at| at.saturating_add(MARK.len()));
    let (scheme, rest) = path.split_at_checked(begin)?;
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let (authority, after) = rest.split_at_checked(end)?;
    if after.is_empty() && path.len() >= Field::Path.bytes_max() {
        // Cut off, perhaps within a password.
        return Some(MASK.to_vec());
    }
    Some([scheme, without_userinfo(authority)?, after].concat())
}

/// Keeps parameter names, masks values; a name that the policy lists, looks like a secret, or stands without a value is
/// masked as well. What looks like a token and has nothing but `=` behind it is no name: that is its padding.
fn mask_query(query: &[u8], redactor: &Redactor) -> Option<Vec<u8>> {
    if query.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(query.len());
    let mut changed = false;
    for (at, pair) in query.split(|&b| b == b'&').enumerate() {
        if at > 0 {
            out.push(b'&');
        }
        let equals = pair.iter().position(|&b| b == b'=');
        let (name, value) = pair.split_at(equals.unwrap_or(0));
        match equals {
            Some(_) => {
                let bare = value.iter().all(|&b| b == b'=');
                let hidden = redactor.names_query(name) || hides_secret(name) || bare && hides_token(name);
                out.extend_from_slice(if hidden { MASK } else { name });
                out.push(b'=');
                if value.len() > 1 {
                    out.extend_from_slice(MASK);
                }
                changed |= hidden || value.len() > 1;
            }
            None if pair.is_empty() => {}
            None => {
                out.extend_from_slice(MASK);
                changed = true;
            }
        }
    }
    if changed { Some(out) } else { None }
}

/// Looks at the value as it came and percent-decoded.
fn hides_secret(value: &[u8]) -> bool {
    let signs = Signs::of(value);
    has_secret(value, signs)
        || signs.has_percent() && matches!(percent_decode(value), Cow::Owned(decoded) if looks_secret(&decoded))
}

/// Whether a value without context, as it came or percent-decoded, is no word.
fn hides_token(value: &[u8]) -> bool {
    looks_random(&percent_decode(value))
}

fn percent_decode(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'%') {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&byte, tail)) = rest.split_first() {
        let decoded = if byte == b'%' { tail.get(..2).and_then(parse_hex) } else { None };
        match decoded {
            Some(decoded) => {
                out.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

fn parse_hex(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::target::Target;
    use crate::record::{EventName, body_of};
    use proptest::prelude::*;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl";

    fn redacted(fill: impl FnOnce(&mut Record), redactor: &Redactor) -> String {
        let mut record = Record::new(EventName::HttpRequest);
        fill(&mut record);
        let record = redact(record, redactor);
        String::from_utf8(body_of(&record).expect("a body")).expect("ASCII")
    }

    fn field(field: Field, value: &str) -> String {
        redacted(|record| record.set(field, value.as_bytes()), &Redactor::default())
    }

    #[test]
    fn query_values_are_masked_and_names_kept() {
        assert_eq!(field(Field::Query, "a=1&b=&c&&d=x=y"), r#"{"query":"a=*&b=&*&&d=*","redacted":"query"}"#);
        assert_eq!(field(Field::Query, "a="), r#"{"query":"a="}"#);
        let redactor = Redactor { query: vec!["token".into()], ..Redactor::default() };
        let body = redacted(|r| r.set(Field::Query, b"Tok%65n=1&page=2"), &redactor);
        assert_eq!(body, r#"{"query":"*=*&page=*","redacted":"query"}"#);
    }

    #[test]
    fn a_token_whose_padding_makes_it_a_name_is_masked() {
        let query = |text: &str| field(Field::Query, text);
        let masked = r#"{"query":"*=","redacted":"query"}"#;
        assert_eq!(query("c2VjcmV0LXRva2VuLTEyMzQ1Njc4OTA="), masked);
        assert_eq!(query("c2VjcmV0%2BdG9rZW4xMjM0NQ="), masked);
        assert_eq!(query("5f4dcc3b5aa765d61d8327deb882cf99="), masked);
        assert_eq!(query("a=1&c2VjcmV0dG9rZW5hYmNkZWY==&b"), r#"{"query":"a=*&*=*&*","redacted":"query"}"#);
        for flags in ["verbose=", "include_deleted_items=&page=", "includeDeletedCustomers=", "filter[state][2]="] {
            assert_eq!(query(flags), format!(r#"{{"query":"{flags}"}}"#));
        }
    }

    #[test]
    fn values_in_path_parameters_and_behind_a_number_sign_are_masked() {
        let path = |text: &str| field(Field::Path, text);
        let masked = |text: &str| format!(r#"{{"path":"{text}","redacted":"path"}}"#);
        assert_eq!(path("/app;jsessionid=0123456789ABCDEF/x;a=1;b/y"), masked("/app;jsessionid=*/x;a=*;b/y"));
        assert_eq!(path("/app;a=4111111111111111"), masked("/app;a=*"));
        assert_eq!(path("/cb#access_token=ab/cd&state="), masked("/cb#access_token=*&state="));
        assert_eq!(path("/cb;x=1#/a=b/c"), masked("/cb;x=*#/a=*"));
        assert_eq!(path("/cb#c2VjcmV0dG9rZW4xMjM0NTY3ODkw/x"), masked("/cb#*/x"));
        assert_eq!(path(&format!("/cb#{JWT}")), masked("/cb#*"));
        for plain in ["/healthz#/../secrets.txt", "/x/..;/y;v", "/a=b&c=d", "/x;a="] {
            assert_eq!(path(plain), format!(r#"{{"path":"{plain}"}}"#));
        }
        assert_eq!(field(Field::RpcMethod, "Add;token=x1"), r#"{"redacted":"rpc_method","rpc_method":"Add;token=*"}"#);
        let query = r#"{"query":"a=*&*&#t=*","redacted":"query"}"#;
        assert_eq!(field(Field::Query, "a=1#t=x&b#c&#t=x"), query);
    }

    #[test]
    fn secrets_in_other_places_are_masked() {
        let path = format!("/reset/{JWT}/x");
        assert_eq!(field(Field::Path, &path), r#"{"path":"/reset/*/x","redacted":"path"}"#);
        assert_eq!(field(Field::Path, "/c/%34111111111111111"), r#"{"path":"/c/*","redacted":"path"}"#);
        assert_eq!(field(Field::Path, "/v1/orders/42"), r#"{"path":"/v1/orders/42"}"#);
        assert_eq!(field(Field::Authority, "u:p@shop:80"), r#"{"authority":"shop:80","redacted":"userinfo"}"#);
        assert_eq!(field(Field::Path, "1ftp://u:s3cret@h/x"), r#"{"path":"1ftp://h/x","redacted":"path"}"#);
        assert_eq!(field(Field::Path, "u:s3cret@h:21"), r#"{"path":"h:21","redacted":"path"}"#);
        assert_eq!(field(Field::Path, &format!("x://u@h/{JWT}")), r#"{"path":"x://h/*","redacted":"path"}"#);
        assert_eq!(field(Field::Path, "/x://u@h/@y"), r#"{"path":"/x://u@h/@y"}"#);
        assert_eq!(field(Field::UserAgent, "-----BEGIN KEY"), r#"{"redacted":"user_agent","user_agent":"*"}"#);
    }

    #[test]
    fn headers_are_kept_by_allow_list_only() {
        assert!(HEADERS_NEVER.iter().all(|name| !HEADERS_ALLOWED.contains(name)));
        assert!(HEADERS_ALLOWED.is_sorted() && HEADERS_ALLOWED.iter().all(|name| is_allowed(name)));
        assert!(is_allowed("If-None-Match") && !is_allowed("If-None-Matc") && !is_allowed("x-if-none-match"));
        let redactor = Redactor { headers: vec!["accept".into()], ..Redactor::default() };
        let body = redacted(
            |record| {
                record.push_header(Side::Request, "Accept", b"*/*");
                record.push_header(Side::Request, "Authorization", b"Basic eDp5");
                record.push_header(Side::Request, "Content-Type", b"text/plain");
                record.push_header(Side::Response, "Server", JWT.as_bytes());
            },
            &redactor,
        );
        assert_eq!(
            body,
            r#"{"hq00":"content-type:text/plain","redacted":"header:accept,header:authorization,header:server"}"#
        );
    }

    proptest! {
        /// Whatever surrounds a secret, it does not leave `redact` in any field that takes bytes from the wire.
        #[test]
        fn ev_2_no_secret_leaves_redact(before in "[a-z/ ]{0,9}", after in "[a-z/ ]{0,9}", which in 0..3_usize) {
            let secret = [JWT, "4111111111111111", "AKIAABCDEFGHIJKLMNOP"][which];
            let value = format!("{before}/{secret}/{after}");
            let body = redacted(|record| {
                for &field in SCANNED.iter().chain(&[Field::Path, Field::Query]) {
                    record.set(field, value.as_bytes());
                }
                record.push_header(Side::Request, "accept", value.as_bytes());
                record.push_header(Side::Response, "server", value.as_bytes());
            }, &Redactor::default());
            prop_assert!(!body.contains(secret), "{}", body);
        }

        /// Whoever takes a target apart, and whether or not it is one: no password of a URL leaves `redact`.
        #[test]
        fn ev_2_no_userinfo_of_a_target_leaves_redact(
            scheme in "[A-Za-z0-9+.-]{0,6}", before in "[a-z@:%]{0,6}", rest in "([/?#][a-z/?#@:]{0,9})?", connect in any::<bool>(),
        ) {
            let url = format!("{scheme}://{before}:s3cret@files{rest}");
            let target = Target::parse(if connect { "CONNECT" } else { "GET" }, &url);
            let body = redacted(|record| {
                record.set(Field::Authority, target.authority.unwrap_or_default().as_bytes());
                record.set(Field::Target, target.authority.unwrap_or_default().as_bytes());
                record.set(Field::Path, target.path.as_bytes());
                record.set(Field::Query, target.query.unwrap_or_default().as_bytes());
            }, &Redactor::default());
            prop_assert!(!body.contains("s3cret"), "{}", body);
        }

        #[test]
        fn never_panics(value in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (mask_path(&value), mask_query(&value, &Redactor::default()), hides_secret(&value));
        }
    }
}
