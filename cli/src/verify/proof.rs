//! One record with its proof (C2SP tlog-proof): `testimony prove` makes it, `testimony verify --proof` checks it without the
//! rest of the export.

use super::backend::Format;
use super::history::{History, PLACES_MAX};
use super::{EXIT_INPUT, given, hint, input};
use crate::args::{self, ProveArgs, VerifyArgs};
use crate::output::{print, print_data, print_json, printable, tell, though_nobody_reads};
use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::path::{Path, PathBuf};
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::merkle::{leaf, prove_inclusion, root_from_inclusion};
use testimony_core::evidence::note::{PublicKey, SignedNote};
use testimony_core::evidence::verify::Verdict;
use testimony_core::record::Body;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// One record, and how it is tied to a signed head.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proof {
    body: String,
    index: u64,
    hashes: Vec<Hash>,
    note: SignedNote,
}

impl Proof {
    fn encode(&self) -> String {
        let hashes: String = self.hashes.iter().map(|hash| STANDARD.encode(hash.0) + "\n").collect();
        let extra = STANDARD.encode(&self.body);
        format!("{FIRST_LINE}\nextra {extra}\nindex {}\n{hashes}\n{}", self.index, self.note.encode())
    }

    fn parse(text: &str) -> Result<Self> {
        let (head, note) = text.split_once("\n\n").context("there is no checkpoint after an empty line")?;
        let mut lines = head.lines();
        ensure!(lines.next() == Some(FIRST_LINE), "the first line is not {FIRST_LINE:?}");
        let extra = lines
            .next()
            .and_then(|line| line.strip_prefix("extra "))
            .context("line 2 is no `extra` with the record")?;
        let body =
            String::from_utf8(STANDARD.decode(extra).context("line 2: not base64")?).context("line 2: no record")?;
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).context("line 3 is no `index`")?;
        let index = index.parse().ok().filter(|n: &u64| n.to_string() == index).context("line 3: no number")?;
        let hash = |line: &str| STANDARD.decode(line).ok().and_then(|bytes| Hash::from_slice(&bytes));
        let hashes: Option<Vec<Hash>> = lines.map(hash).collect();
        let hashes = hashes.context("a line of the proof is no hash in base64")?;
        let note = SignedNote::parse(note).map_err(|error| anyhow!("the checkpoint: {error}"))?;
        Ok(Self { body, index, hashes, note })
    }

    /// Whether the record stands where the head says. Its body must say so itself, too.
    fn holds(&self) -> Result<(), &'static str> {
        let body = Body::parse(&self.body).map_err(|_| "the record is not canonical")?;
        if body.simple("sid") != Some(self.note.checkpoint.origin.as_str()) {
            return Err("the head is of another stream than the record");
        }
        if body.simple("seq").and_then(|seq| seq.parse().ok()) != Some(self.index) {
            return Err("the record says another place than the proof");
        }
        let root = root_from_inclusion(leaf(self.body.as_bytes()), self.index, self.note.checkpoint.size, &self.hashes);
        if root != Some(self.note.checkpoint.root) {
            return Err("record and proof do not give the signed root");
        }
        Ok(())
    }
}

/// `verify --proof`.
pub fn verify(path: &Path, args: &VerifyArgs) -> Result<u8> {
    let checked = given::text(path).and_then(|text| check(&text, args.key.as_ref()));
    let (verdict, proof, message) = match checked.with_context(|| input::name(path)) {
        Ok(checked) => checked,
        Err(error) => {
            tell(format_args!("{error:#}: `testimony prove` makes such a file"));
            return Ok(EXIT_INPUT);
        }
    };
    though_nobody_reads(match args.output {
        args::Format::Text => print(&text(verdict, &proof, message)),
        args::Format::Json => print_json(&json!({
            "verdict": verdict, "sid": proof.note.checkpoint.origin, "seq": proof.index,
            "size": proof.note.checkpoint.size, "message": message, "record": proof.body,
        })),
    })?;
    Ok(verdict.exit_code())
}

/// For people: the record, and what is said of it. Whoever made the file wrote record and name.
pub(super) fn text(verdict: Verdict, proof: &Proof, message: &str) -> String {
    let (body, sid) = (printable(&proof.body), printable(&proof.note.checkpoint.origin));
    format!("{body}\n{verdict} {sid} record {}: {}\n", proof.index, printable(message))
}

/// Judges a proof.
pub(super) fn check(text: &str, key: Option<&PublicKey>) -> Result<(Verdict, Proof, &'static str)> {
    let proof = Proof::parse(text)?;
    let (verdict, message) = match (proof.holds(), key) {
        (Err(problem), _) => (Verdict::Tampered, problem),
        (Ok(()), Some(key)) if proof.note.is_signed_by(&proof.note.checkpoint.origin, key) => {
            (Verdict::Ok, "the record is in the tree whose head this key signed")
        }
        (Ok(()), Some(_)) => (Verdict::Foreign, "the head is not signed by the given key"),
        (Ok(()), None) => (Verdict::Unanchored, "the record is in the tree; --key tells whose head it must be"),
    };
    Ok((verdict, proof, message))
}

/// `prove`.
pub fn prove(args: &ProveArgs) -> Result<u8> {
    let (proof, key) = make(&args.files, args.format, &args.record, args.key)?;
    print_data(&proof)?;
    tell(format_args!("signed by {key}; check it with: testimony verify --proof FILE --key {key}"));
    Ok(0)
}

/// The proof of a record, and the key that signed its head.
pub(super) fn make(
    files: &[PathBuf],
    format: Option<Format>,
    record: &RecordName,
    only: Option<PublicKey>,
) -> Result<(String, PublicKey)> {
    let (sid, seq) = (record.sid.as_str(), record.seq);
    ensure!(seq < PLACES_MAX, "only the first {PLACES_MAX} records of a stream can be proved");
    let mut history = History::new(sid, seq, only);
    let mut seen = hint::Seen::default();
    input::bodies(files, format, &mut |text| {
        seen.body(text);
        history.body(text);
    })?;
    if !history.has_record() {
        seen.or_nothing(files)?;
        bail!(
            "record {seq} of {sid} is not in {}: look at the query with its time range and limit; `testimony verify` tells which \
             streams are there",
            hint::names(files)
        );
    }
    let found = history.find()?.with_context(|| {
        format!(
            "no signed head covers record {seq} together with every record before it: run `testimony verify` to see what is wrong"
        )
    })?;
    let hashes = prove_inclusion(&found.leaves, seq).context("no proof")?;
    let proof = Proof { body: found.body, index: seq, hashes, note: found.note };
    Ok((proof.encode(), found.key))
}

/// A record by stream and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordName {
    sid: String,
    seq: u64,
}

/// Reads `SID:SEQ`.
///
/// # Errors
/// It is something else.
pub fn record_name(text: &str) -> Result<RecordName, String> {
    let parts = text.rsplit_once(':').and_then(|(sid, seq)| Some((sid, seq.parse().ok()?)));
    let (sid, seq) = parts.ok_or_else(|| format!("{text:?} is no record: write SID:SEQ, with seq from 0"))?;
    sid.parse::<testimony_core::evidence::stream::StreamId>().map_err(|error| error.to_string())?;
    Ok(RecordName { sid: sid.to_owned(), seq })
}
