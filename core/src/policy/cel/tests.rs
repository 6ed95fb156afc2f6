use super::*;
use crate::policy::Direction;
use expect_test::expect;
use httparse::Header;
use proptest::prelude::*;

const HEADERS: [Header<'_>; 4] = [
    Header { name: "X-Team", value: b"Blue" },
    Header { name: "x-tag", value: b"a" },
    Header { name: "X-Tag", value: b"b" },
    Header { name: "x-raw", value: b"\xff" },
];

/// Evaluates an expression on an inbound `POST http://shop.example:8080/v1/items?limit=5`.
fn evaluate(text: &str) -> Result<bool, Undecided> {
    let expression = Expression::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let fields = &HEADERS[..];
    let request = Facts {
        peer: "::ffff:10.0.0.9".parse().ok(),
        method: Some("POST"),
        path: Some("/v1/items"),
        query: Some("limit=5"),
        authority: Some("Shop.Example:8080"),
        headers: Some(fields),
        ..Facts::connection(Direction::Inbound, 8080)
    };
    expression.evaluate(&request)
}

fn refused(text: &str) -> String {
    match Expression::compile(text) {
        Ok(expression) => panic!("{text} is accepted: {expression:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn expressions_that_are_true() {
    for text in [
        "true",
        "!false",
        "request.method == 'POST'",
        "request.method != \"GET\"",
        "request.method in ['POST', 'PUT']",
        "request.path.startsWith('/v1/') && request.path.endsWith('items')",
        "request.path.contains('/i')",
        "request.path.matches('^/v[0-9]+/')",
        r"request.path.matches(r'^/v\d+/\w+$')",
        r"matches(request.path, '\\w+s$')",
        "request.query == 'limit=5'",
        "request.host == 'shop.example'",
        "request.host.endsWith('.example')",
        "request.headers['X-Team'] == 'Blue'",
        "request.headers['x-team'].lowerAscii() == 'blue'",
        "request.headers['x-tag'] == 'a, b'",
        "request.headers['x-raw'] == '\u{fffd}'",
        "request.headers[\"x-raw\"] == '\\uFFFD'",
        "'x-team' in request.headers && !('x-other' in request.headers)",
        "(request.method in request.headers) == false",
        "connection.port == 8080 && connection.port != 80",
        "connection.port in [80, 8080]",
        "connection.port >= 8000 && connection.port < 0x2000",
        "connection.port > -1",
        "connection.direction == 'Inbound'",
        "connection.peerAddress == '10.0.0.9'",
        "connection.peerAddress.startsWith('10.')",
        "size(request.path) == 9",
        "request.path.size() > 3",
        "size('äöü') == 3",
        "'b' > 'a' && 'a' <= 'a'",
        "(request.method == 'POST') == true",
        "request.method == 'GET' || request.method == 'POST' && connection.port == 8080",
        "!(request.method in []) \n && true",
        "'it\\'s \\x41' == \"it's A\"",
    ] {
        assert_eq!(evaluate(text), Ok(true), "{text}");
    }
}

#[test]
fn and_binds_closer_than_or() {
    assert_eq!(evaluate("true || true && false"), Ok(true));
    assert_eq!(evaluate("(true || true) && false"), Ok(false));
}

#[test]
fn what_is_not_there_is_undecided_unless_another_part_decides() {
    assert_eq!(evaluate("request.headers['x-none'] == 'a'"), Err(Undecided::NoHeader));
    assert_eq!(evaluate("!(request.headers['x-none'] == 'a')"), Err(Undecided::NoHeader));
    assert_eq!(evaluate("request.headers['x-none'] == 'a' || true"), Ok(true));
    assert_eq!(evaluate("request.headers['x-none'] == 'a' && false"), Ok(false));
    assert_eq!(evaluate("request.headers['x-none'] == 'a' && true"), Err(Undecided::NoHeader));
    assert_eq!(evaluate("'x-none' in request.headers && request.headers['x-none'] == 'a'"), Ok(false));
}

#[test]
fn a_connection_has_no_request() {
    let opaque = Facts::connection(Direction::Outbound, 5432);
    let evaluate = |text: &str| Expression::compile(text).expect("compiles").evaluate(&opaque);
    for text in [
        "request.method == 'GET'",
        "request.path == ''",
        "request.query == ''",
        "request.host == ''",
        "'a' in request.headers",
        "request.headers['a'] == ''",
    ] {
        assert_eq!(evaluate(text), Err(Undecided::NotHttp), "{text}");
    }
    assert_eq!(evaluate("connection.port == 5432 && connection.direction == 'Outbound'"), Ok(true));
    assert_eq!(evaluate("connection.port == 5432 || request.method == 'GET'"), Ok(true));
}

#[test]
fn a_path_that_means_another_one_is_judged_in_both_forms() {
    let evaluate = |text: &str, path: &str| {
        let facts = Facts { method: Some("GET"), path: Some(path), ..Facts::connection(Direction::Inbound, 80) };
        Expression::compile(text).expect("compiles").evaluate(&facts)
    };
    let probes = "request.path.startsWith('/healthz')";
    assert_eq!(evaluate(probes, "/healthz/db"), Ok(true));
    for path in [
        "/healthz/../admin",
        "/healthz/%2e%2E/admin",
        "/healthz\\..\\admin",
        "/x/../healthz",
        "/healthz/..;/admin",
        "/healthz/../admin/..;/..;/healthz",
        "/healthz#",
        "/x#/healthz",
    ] {
        assert_eq!(evaluate(probes, path), Err(Undecided::AmbiguousPath), "{path}");
    }
    assert_eq!(evaluate(probes, "/healthz/./db"), Ok(true));
    assert_eq!(evaluate("request.path == '/a'", "/a;v=1"), Err(Undecided::AmbiguousPath));
    assert_eq!(evaluate("request.method == 'GET'", "/a/../b"), Ok(true));
    assert_eq!(evaluate("request.method == 'POST' && request.path == '/b'", "/a/../b"), Ok(false));
}

#[test]
fn refusals_name_column_problem_and_fix() {
    let mut all = String::new();
    for text in [
        "",
        "request.path",
        "request.pfad == '/'",
        "request.method == 'GET' && reqest.path == '/'",
        "response.status < 500",
        "request.method == 200",
        "connection.port == '80'",
        "request.method && true",
        "!request.method",
        "request.method == 'GET",
        "request.path.matches('[a')",
        "request.path.matches('a{1000}{1000}')",
        "request.path.matches(request.host)",
        "request.path.startswith('/')",
        "request.path.startsWith()",
        "connection.port.size() == 1",
        "lower(request.path) == ''",
        "request.headers.host == 'a'",
        "request.headers['a b'] == 'c'",
        "request.headers[request.path] == 'c'",
        "request['path'] == '/'",
        "['a'].exists(x, x == 'a')",
        "has(request.headers)",
        "[1, 'a'] == [1]",
        "1 in ['a']",
        "'a' in 'abc'",
        "connection.port + 1 == 81",
        "true ? false : true",
        "1 < 2 < 3",
        "true < false",
        "request == request",
        "request.method = 'GET'",
        "connection.port == 1.5",
        "connection.port == 99999999999999999999",
        "b'x' == 'x'",
        "'\\q' == 'q'",
        "true)",
        "(true",
        "request.method == 'GET'\n  && request.verb == 'x'",
        "'ä' == 'ä' && nobody",
    ] {
        all.push_str(&format!("{}\n  {}\n", text.replace('\n', "\\n"), refused(text)));
    }
    expect![[r#"

          column 1: a value is missing, there is the end; write a value, such as request.path or 'text'
        request.path
          column 1: the expression is a string, not true or false; compare it with something
        request.pfad == '/'
          column 9: `request` has no field `pfad`; it has method, path, query, host and headers
        request.method == 'GET' && reqest.path == '/'
          column 28: `reqest` is not known; use request, connection, or text in quotes
        response.status < 500
          column 1: `response` is not known: a rule is chosen when the request begins; use request and connection
        request.method == 200
          column 16: `==` compares a string with an int; compare values of one type
        connection.port == '80'
          column 17: `==` compares an int with a string; compare values of one type
        request.method && true
          column 1: `&&` joins conditions, not a string; compare it with something
        !request.method
          column 1: `!` joins conditions, not a string; compare it with something
        request.method == 'GET
          column 19: the string has no end; close it with '
        request.path.matches('[a')
          column 22: the pattern cannot be used: unclosed character class; use a smaller pattern in the syntax of RE2
        request.path.matches('a{1000}{1000}')
          column 22: the pattern cannot be used: heap usage during NFA compilation exceeded limit of 131072; use a smaller pattern in the syntax of RE2
        request.path.matches(request.host)
          column 22: the pattern of `matches` must be a literal; write it as a literal, such as r'^/v[0-9]+/'
        request.path.startswith('/')
          column 14: the function `startswith` is not known; strings have contains, startsWith, endsWith, matches, lowerAscii and size
        request.path.startsWith()
          column 14: `startsWith` takes one argument; give it one string
        connection.port.size() == 1
          column 17: `size` works on strings, not on an int; give it a string
        lower(request.path) == ''
          column 1: the function `lower` is not known; there is size(text), and strings have contains, startsWith, endsWith, matches, lowerAscii and size
        request.headers.host == 'a'
          column 17: a header is not a field; write request.headers['host']
        request.headers['a b'] == 'c'
          column 17: "a b" is no header name; use letters, digits and dashes
        request.headers[request.path] == 'c'
          column 17: a header is chosen by its name, not by `request`; write request.headers['x-name']
        request['path'] == '/'
          column 8: `request` has no elements to choose from; only request.headers['x-name'] has
        ['a'].exists(x, x == 'a')
          column 7: `exists` is not available: expressions have no loops; write the conditions out, or use `in` with a list
        has(request.headers)
          column 1: `has` is not available; write 'x-name' in request.headers; all other fields are always there
        [1, 'a'] == [1]
          column 5: the list mixes strings and ints; use one type for all elements
        1 in ['a']
          column 3: `in` looks for an int in a list of another type; use elements of the same type
        'a' in 'abc'
          column 5: `in` looks into a list or request.headers, not into a string; write a list, such as ['a', 'b'], or use contains
        connection.port + 1 == 81
          column 17: arithmetic with `+` is not available; compute it beforehand and write the result
        true ? false : true
          column 6: `?` is not available; write it with && and ||, or use two rules
        1 < 2 < 3
          column 7: comparisons cannot be chained; join them with &&
        true < false
          column 6: `<` does not order bools; use == or !=
        request == request
          column 9: `==` does not compare `request`; compare a string, an int or a bool
        request.method = 'GET'
          column 16: '=' has no meaning here; compare with ==
        connection.port == 1.5
          column 20: `1` begins no whole number of 64 bits; use a whole number, such as 8080
        connection.port == 99999999999999999999
          column 20: `99999999999999999999` begins no whole number of 64 bits; use a whole number, such as 8080
        b'x' == 'x'
          column 1: byte strings are not available; use a string, such as 'x'
        '\q' == 'q'
          column 2: this escape is not known; use \n, \t, \r, \\, \', \", \xHH or \uHHHH, or a raw string such as r'\d+'
        true)
          column 5: `)` is not expected here; join conditions with && or ||
        (true
          column 6: `)` is missing before the end; add it
        request.method == 'GET'\n  && request.verb == 'x'
          line 2, column 14: `request` has no field `verb`; it has method, path, query, host and headers
        'ä' == 'ä' && nobody
          column 15: `nobody` is not known; use request, connection, or text in quotes
    "#]].assert_eq(&all);
}

#[test]
fn every_limit_is_told() {
    assert!(refused(&format!("'{}' == ''", "x".repeat(EXPRESSION_BYTES_MAX))).contains("more than 1024"));
    assert!(refused(&format!("{}true{}", "(".repeat(17), ")".repeat(17))).contains("nested more than 16 deep"));
    assert!(refused(&format!("{}true", "!".repeat(17))).contains("nested more than 16 deep"));
    assert!(Expression::compile(&format!("{}true{}", "(".repeat(16), ")".repeat(16))).is_ok());
    assert!(refused(&["true"; 129].join("||")).contains("more than 128 parts"));
    assert!(Expression::compile(&["true"; 127].join("||")).is_ok());
    let list = ["1"; 65].join(",");
    assert!(refused(&format!("1 in [{list}]")).contains("more than 64 elements"));
    let patterns = ["request.path.matches('a')"; 5].join("||");
    assert!(refused(&patterns).contains("more than 4 patterns"));
    assert!(refused(&format!("request.path.matches('{}')", "a".repeat(257))).contains("more than 256"));
}

#[test]
fn an_evaluation_looks_at_a_bounded_number_of_bytes() {
    let path = format!("/{}", "a".repeat(60_000));
    let facts = Facts { method: Some("GET"), path: Some(&path), ..Facts::connection(Direction::Inbound, 80) };
    let often = ["request.path.endsWith('b')"; 8].join("||");
    assert_eq!(Expression::compile(&often).expect("compiles").evaluate(&facts), Err(Undecided::TooLong));
    let once = Expression::compile("request.path.matches('(a|aa)+$')").expect("compiles");
    assert_eq!(once.evaluate(&facts), Ok(true), "in linear time");
    assert!(once.pattern_bytes() > 0 && once.pattern_bytes() <= 128 * 1024);
}

#[test]
fn every_prefix_is_an_expression_or_an_error() {
    let text = "!(request.headers['x-a'].lowerAscii().matches(r'^\\d+') || connection.port in [1, 0x1f, 3]) && \
                size(\"\\u00e4\\x41\") >= -1 && request.path.startsWith('/ä')";
    assert!(Expression::compile(text).is_ok());
    for (at, _) in text.char_indices() {
        let prefix = text.get(..at).expect("a border");
        if let Err(error) = Expression::compile(prefix) {
            assert!(error.line == 1 && error.column <= prefix.chars().count() + 1, "{prefix}: {error}");
        }
    }
}

proptest! {
    #[test]
    fn nothing_panics_whatever_the_text(
        text in "(request|connection|\\.path|\\.headers|\\['x'\\]|\\(|\\)|\\[|\\]|!|&&|\\|\\||==|<| in |'a'|r'\\\\'|1|-|\\.size\\(\\)|\\.matches\\('a'\\)|,|\\\\|ä|\"){0,24}",
        path in "[/a.%2e\\\\ä]{0,12}", http: bool,
    ) {
        if let Ok(expression) = Expression::compile(&text) {
            let method = http.then_some("GET");
            let facts = Facts { method, path: Some(&path), ..Facts::connection(Direction::Inbound, 80) };
            let _ = expression.evaluate(&facts);
        }
    }

    #[test]
    fn nothing_panics_whatever_the_bytes(text in "\\PC{0,80}") {
        let _ = Expression::compile(&text);
    }
}
