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
    assert_eq!(path("/app%3Bjsessionid=0123/x%3bb%3D4%3Bc%3d/y"), masked("/app%253Bjsessionid=*/x%253bb%253D*/y"));
    assert_eq!(path("/app;a=1%3Bb=2;c%3D3"), masked("/app;a=*;c%253D*"));
    assert_eq!(path("/app%253Ba%253D1/x%25253bb=2;c"), masked("/app%25253Ba%25253D*/x%2525253bb=*;c"));
    assert_eq!(path("/cb#access_token=ab/cd&state="), masked("/cb#access_token=*&state="));
    assert_eq!(path("/cb;x=1#/a=b/c"), masked("/cb;x=*#/a=*"));
    assert_eq!(path("/cb#c2VjcmV0dG9rZW4xMjM0NTY3ODkw/x"), masked("/cb#*/x"));
    assert_eq!(path(&format!("/cb#{JWT}")), masked("/cb#*"));
    for plain in [
        "/healthz#/../secrets.txt",
        "/x/..;/y;v",
        "/a=b&c=d",
        "/x;a=",
        "/tags/c%23/5f4dcc3b5aa765d61d8327deb882cf99",
        "/a%3B",
        "/a%2525253Bb=1",
        "/a%+3Bb=1",
        "/%3",
    ] {
        assert_eq!(path(plain), format!(r#"{{"path":"{}"}}"#, plain.replace('%', "%25")));
    }
    assert_eq!(field(Field::RpcMethod, "Add;token=x1"), r#"{"redacted":"rpc_method","rpc_method":"Add;token=*"}"#);
    assert_eq!(field(Field::RpcService, "a;t=x1/S"), r#"{"redacted":"rpc_service","rpc_service":"a;t=*/S"}"#);
    let query = r#"{"query":"a=*&*&#t=*","redacted":"query"}"#;
    assert_eq!(field(Field::Query, "a=1#t=x&b#c&#t=x"), query);
}

/// What is looked at for a piece is taken with it. Would each piece look at all of the rest, this took hours.
#[test]
fn a_path_of_marks_alone_costs_what_its_length_does() {
    for mark in ["%3B", ";", "#%3B", "%3Ba=", "#&", "%25253B"] {
        let path = mark.repeat((1 << 20) / mark.len());
        assert!(mask_parameters(path.as_bytes()).is_none_or(|masked| masked.len() <= path.len() * 2), "{mark}");
    }
}

#[test]
fn secrets_in_other_places_are_masked() {
    let path = format!("/reset/{JWT}/x");
    assert_eq!(field(Field::Path, &path), r#"{"path":"/reset/*/x","redacted":"path"}"#);
    assert_eq!(field(Field::Path, "/c/%34111111111111111"), r#"{"path":"/c/*","redacted":"path"}"#);
    assert_eq!(field(Field::Path, "/c/%252534111111111111111/x"), r#"{"path":"/c/*/x","redacted":"path"}"#);
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
