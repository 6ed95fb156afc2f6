//! An entry that is parsed is written back as it was; lines are a ledger or refused, as an export and as a block (whose note
//! stands behind an empty line).
#![no_main]

use libfuzzer_sys::fuzz_target;
use testimony_core::evidence::ledger::entry::Entry;
use testimony_core::evidence::ledger::export::read_bodies;
use testimony_core::evidence::ledger::{Block, Book, Keys};
use testimony_core::evidence::note::PublicKey;

fuzz_target!(|bytes: &[u8]| {
    let lines = || bytes.split(|byte| *byte == b'\n');
    let mut ledger = None;
    for line in lines() {
        if let Ok(entry) = Entry::parse(line) {
            assert_eq!(entry.body(), line);
            ledger = ledger.or(Some(entry.sid));
        }
    }
    let key = PublicKey([7; 32]);
    if let Some(sid) = ledger {
        let _ = read_bodies(&sid, key, lines());
    }
    let text = String::from_utf8_lossy(bytes);
    let (entries, note) = text.split_once("\n\n").unwrap_or((&text, ""));
    let block = Block { number: 0, entries: entries.to_owned(), note: note.to_owned() };
    let _ = Book::load(&[block], Keys { ledger: key, witness: key });
});
