//! The quick reader against the one that knows every form: what it takes, both read alike.

use super::otlp::any_form;
use super::{otlp, quick};
use testimony_core::evidence::verify::Stored;

/// As the Collector writes it: two records, one with escapes of each kind, and a second Resource.
const LINE: &str = concat!(
    r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"k8s.pod.uid","value":{"stringValue":"u"}}]},"scopeLogs":[{"scope":{},"#,
    r#""logRecords":[{"timeUnixNano":"17","observedTimeUnixNano":"18","body":{"stringValue":"{\"a\":\"\\\\\u003c\"}"},"#,
    r#""attributes":[{"key":"n","value":{"intValue":"-4"}},{"key":"t","value":{"stringValue":"ä\n\/"}}],"traceId":"","#,
    r#""spanId":"0f","eventName":"audit.gap"},{"timeUnixNano":"3","body":{"stringValue":"x"},"flags":1}]}]},"#,
    r#"{"resource":{"attributes":[]},"scopeLogs":[{"scope":{"name":"s"},"logRecords":[{"eventName":"e"}],"schemaUrl":"u"}]}]}"#
);

type Given = Vec<(Option<String>, String)>;
type Read<E> = fn(&str, &mut dyn FnMut(Option<&str>, &Stored<'_>)) -> Result<(), E>;

fn given<E: ToString>(read: Read<E>, line: &str) -> Result<Given, String> {
    let mut all = Vec::new();
    let result = read(line, &mut |body, stored| all.push((body.map(str::to_owned), format!("{stored:?}"))));
    result.map(|()| all).map_err(|error| error.to_string())
}

fn both_alike(line: &str) {
    assert_eq!(given(otlp::records, line), given(any_form, line), "{line}");
}

#[test]
fn the_usual_form_is_read_quickly() {
    assert_eq!(given(quick::records, LINE).map(|all| all.len()), Ok(3));
    both_alike(LINE);
}

#[test]
fn every_prefix_is_refused_by_both_alike() {
    for cut in (0..LINE.len()).filter(|cut| LINE.is_char_boundary(*cut)) {
        let cut = &LINE[..cut];
        assert!(given(quick::records, cut).is_err(), "{cut}");
        both_alike(cut);
    }
}

#[test]
fn every_change_of_one_character_is_judged_by_both_alike() {
    for (at, old) in LINE.char_indices() {
        let (before, after) = (&LINE[..at], &LINE[at + old.len_utf8()..]);
        both_alike(&[before, after].concat());
        for new in ["\"", "\\", "{", "}", "[", "]", ",", ":", " ", "0", "8", "-", "u", "\u{1}", "\u{7f}", "\u{e4}"] {
            both_alike(&[before, new, after].concat());
            both_alike(&[before, new, &LINE[at..]].concat());
        }
    }
}

#[test]
fn every_member_left_out_or_said_twice_is_judged_by_both_alike() {
    let commas: Vec<usize> = LINE.match_indices(',').map(|(at, _)| at).collect();
    for from in &commas {
        for to in commas.iter().filter(|to| *to > from) {
            both_alike(&[&LINE[..*from], &LINE[*to..]].concat());
            both_alike(&[&LINE[..*to], &LINE[*from..]].concat());
        }
    }
}

#[test]
fn other_forms_of_values_are_judged_by_both_alike() {
    for (old, new) in [
        (r#""17""#, "17"),
        (r#""17""#, r#""+17""#),
        (r#""17""#, r#""017""#),
        (r#""17""#, r#""-1""#),
        (r#""17""#, r#""99999999999999999999999""#),
        (r#""-4""#, "-4"),
        (r#""-4""#, r#""9223372036854775808""#),
        (r#""-4""#, r#""four""#),
        (r#""stringValue":"x""#, r#""boolValue":true"#),
        (r#""stringValue":"x""#, r#""stringValue":"x","intValue":"1""#),
        (r#""stringValue":"x""#, r#""arrayValue":{"values":[{"stringValue":"x"}]}"#),
        (r#"{"stringValue":"x"}"#, "{}"),
        (r#"{"stringValue":"x"}"#, "null"),
        (r#""flags":1"#, r#""flags":01"#),
        (r#""flags":1"#, r#""flags":1.5e3"#),
        (r#""flags":1"#, r#""unknown":[{}]"#),
        ("\\u003c", "\\u00e4"),
        ("\\u003c", "\\u003C"),
        ("\\u003c", "\\u0+3c"),
        ("\\u003c", "\\u0000"),
        ("\\u003c", "\\ud83d\\ude00"),
        ("\\u003c", "\\ud83d"),
        ("\\n", "\\b\\f\\r\\t"),
    ] {
        let changed = LINE.replacen(old, new, 1);
        assert_ne!(changed, LINE, "{old}");
        both_alike(&changed);
    }
}
