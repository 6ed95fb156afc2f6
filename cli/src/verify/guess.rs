//! What a file is that is no export, and what makes one of it: by its first line.

use serde::de::IgnoredAny;
use serde_json::{Error, Value};

/// Begins UTF-8 of some programs, and says nothing.
pub(crate) const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];

/// How packed files begin, what packs so, and what unpacks it.
const PACKED: [(&[u8], &str, &str); 6] = [
    (&[0x1f, 0x8b], "gzip", "gzip -dc"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "zstd -dc"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "xz -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (&[b'P', b'K', 3, 4], "zip", "unzip -p"),
    (&[4, 0x22, 0x4d, 0x18], "lz4", "lz4 -dc"),
];

/// How UTF-16 begins: with its mark, or with an ASCII character.
fn is_utf_16(line: &[u8]) -> bool {
    match line {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [0, ascii, ..] | [ascii, 0, ..] => ascii.is_ascii_graphic(),
        _ => false,
    }
}

/// Of the bytes of the first line: what they are, if they are no text that could be looked at.
pub(crate) fn bytes(line: &[u8]) -> Option<String> {
    if is_utf_16(line) {
        return Some("it is UTF-16: convert it first, with `iconv -f UTF-16 -t UTF-8`".to_owned());
    }
    let (_, kind, tool) = PACKED.iter().find(|(begin, ..)| line.starts_with(begin))?;
    Some(format!("it is packed with {kind}: unpack it first, with `{tool}`"))
}

/// Of the first line: what it is, if it is known and no export.
pub(crate) fn text(line: &str) -> Option<&'static str> {
    if line.starts_with('<') {
        let begin: String = line.chars().take(MARKUP_CHARACTERS).collect::<String>().to_ascii_lowercase();
        let html = begin.starts_with("<!doctype html") || begin.starts_with("<html") || begin.contains("<head");
        return Some(match html {
            true => "is an HTML page, perhaps a login: ask the backend itself, with what it wants of who asks",
            false => "is XML or the like: an export is JSON lines",
        });
    }
    if line.starts_with('[') {
        return Some("begins a JSON array: an export has one value on a line, as `jq -c '.[]'` writes it");
    }
    if !line.starts_with('{') {
        return None;
    }
    match serde_json::from_str::<IgnoredAny>(line) {
        Err(error) if error.is_eof() && line.len() <= OPENING_BYTES_MAX => {
            Some("is JSON over several lines: an export has one value on a line, as `jq -c .` writes it")
        }
        Err(_) => None,
        Ok(_) => is_search_answer(line).then_some(
            "is the answer of Elasticsearch to a search: an export has one hit on a line, as `jq -c '.hits.hits[]'` writes it",
        ),
    }
}

/// So many characters of markup are looked at.
const MARKUP_CHARACTERS: usize = 512;

/// A longer first line that does not end is cut off rather than the beginning of JSON over several lines.
const OPENING_BYTES_MAX: usize = 64;

fn is_search_answer(line: &str) -> bool {
    let Ok(Value::Object(map)) = serde_json::from_str(line) else { return false };
    map.get("hits").and_then(|hits| hits.get("hits")).is_some_and(Value::is_array)
}

/// The reason without serde's own place, which is that within the line.
pub(crate) fn reason(error: &Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_text_are_known() {
        for (line, told) in [
            (&[0x1f, 0x8b, 8, 0][..], Some("gzip -dc")),
            (&[0x28, 0xb5, 0x2f, 0xfd, 0], Some("zstd -dc")),
            (b"\xfd7zXZ\0\0", Some("xz -dc")),
            (b"BZh91AY", Some("bzip2 -dc")),
            (b"PK\x03\x04", Some("unzip -p")),
            (b"\x04\x22\x4d\x18", Some("lz4 -dc")),
            (b"\xff\xfe{\0", Some("iconv -f UTF-16 -t UTF-8")),
            (b"\xfe\xff\0{", Some("iconv")),
            (b"{\0\"\0", Some("iconv")),
            (b"\0{\0\"", Some("iconv")),
            (b"{\"a\":1}", None),
            (b"{", None),
            (b"", None),
            (BYTE_ORDER_MARK, None),
        ] {
            let guessed = bytes(line);
            assert_eq!(guessed.is_some(), told.is_some(), "{line:?}: {guessed:?}");
            assert!(guessed.unwrap_or_default().contains(told.unwrap_or_default()), "{line:?}");
        }
    }

    #[test]
    fn texts_that_are_no_export_are_known() {
        for (line, told) in [
            ("{", Some("jq -c .`")),
            ("{ \"resourceLogs\": [", Some("jq -c .`")),
            ("[", Some("jq -c '.[]'")),
            ("[{\"_msg\":\"x\"}]", Some("jq -c '.[]'")),
            ("<!DOCTYPE html>", Some("perhaps a login")),
            ("<html lang=\"en\"><head>", Some("perhaps a login")),
            ("<?xml version=\"1.0\"?>", Some("XML")),
            ("{\"took\":1,\"hits\":{\"total\":1,\"hits\":[]}}", Some("jq -c '.hits.hits[]'")),
            ("{\"hits\":1}", None),
            ("{\"_msg\":\"<html>\"}", None),
            ("{\"resourceLogs\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\"", None),
            ("{\"a\":]", None),
            ("GET / 200", None),
            ("", None),
        ] {
            let guessed = text(line);
            assert_eq!(guessed.is_some(), told.is_some(), "{line}: {guessed:?}");
            assert!(guessed.unwrap_or_default().contains(told.unwrap_or_default()), "{line}: {guessed:?}");
        }
    }

    #[test]
    fn a_reason_has_no_place_of_its_own() {
        for text in ["{", "{\"a\":]", "x"] {
            let error = serde_json::from_str::<IgnoredAny>(text).expect_err(text);
            let reason = reason(&error);
            assert!(!reason.contains("column") && !reason.is_empty(), "{reason}");
        }
    }
}
