//! `docs/reference/record.md` is what the code says. `UPDATE_GOLDEN=1` rewrites it.

#[path = "../../e2e/tests/support/golden.rs"]
mod golden;

use golden::{assert_golden, repository};
use testimony_core::record::{EventName, GapReason, Typ, reference_markdown};
use testimony_core::redact::{HEADERS_ALLOWED, HEADERS_NEVER};

/// Traffic has an event of its own for each protocol.
fn event(typ: Typ) -> &'static str {
    match typ {
        Typ::Exchange => "audit.http.request, ...",
        Typ::Stage => "audit.stream.open, ...",
        other => other.event().as_str(),
    }
}

#[test]
fn the_page_of_the_record_is_the_codes() {
    let list = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let events: Vec<&str> = EventName::ALL.iter().map(|event| event.as_str()).collect();
    let reasons = GapReason::ALL.map(GapReason::as_str);
    let kinds: String =
        Typ::ALL.iter().map(|typ| format!("| `{}` | `{}` | {} |\n", typ.as_str(), event(*typ), typ.doc())).collect();
    let page = format!(
        "{}\n## Kinds of records\n\nThe field `typ`, and the event in OTLP.\n\n| typ | event | what it tells |\n|---|---|---|\n\
         {kinds}\n## Events\n\n{}. A gap has one of the reasons {}.\n\n## Header fields\n\nKept: {}.\n\nNever kept, whatever a \
         policy says: {}.\n\nA kept value that looks like a secret is masked.\n",
        reference_markdown(),
        list(&events),
        list(&reasons),
        list(HEADERS_ALLOWED),
        list(HEADERS_NEVER),
    );
    assert_golden(&repository().join("docs/reference/record.md"), &page);
}
