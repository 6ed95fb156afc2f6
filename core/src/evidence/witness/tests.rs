use super::csr::{csr, parse_csr, stream_uri};
use super::proof::{consistency, inclusion_of_next};
use super::request::{REQUEST_BYTES_MAX, RequestError};
use super::*;
use crate::canon::BodyWriter;
use crate::evidence::hash::Hash;
use crate::evidence::merkle::{Range, leaf, prove_consistency, prove_inclusion, root_of};
use crate::evidence::note::{Checkpoint, PublicKey, SIGNATURE_BYTES, Signature, SignedNote};
use crate::evidence::stream::StreamId;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use proptest::prelude::*;

const SID: &str = "c/n/p/0123456789abcdef0123456789abcdef-0-0";
const WITNESS: &str = "c/testimony-system/witness";
const NOW_S: u64 = 1_700_000_000;

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")
}

fn public(seed: u8) -> PublicKey {
    PublicKey(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

fn sign(seed: u8, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
    pair(seed).sign(message).as_ref().try_into().expect("64 bytes")
}

fn body(seq: u64, typ: &str, next_key: Option<PublicKey>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = BodyWriter::new(&mut out);
    if let Some(key) = next_key {
        writer.member("next_key", key.to_string().as_bytes());
    }
    writer.member("seq", seq.to_string().as_bytes());
    writer.member("sid", SID.as_bytes());
    writer.member("typ", typ.as_bytes());
    writer.finish();
    out
}

/// A stream as its owner has it.
struct Owner {
    client: Client,
    leaves: Vec<Hash>,
    key: u8,
}

impl Owner {
    fn new() -> Self {
        Self { client: Client::new(public(1)), leaves: Vec::new(), key: 1 }
    }

    fn seal(&mut self, count: usize) {
        for _ in 0..count {
            let leaf = leaf(&body(self.leaves.len() as u64, "exchange", None));
            self.client.push(leaf);
            self.leaves.push(leaf);
        }
    }

    fn note(&self) -> SignedNote {
        let checkpoint =
            Checkpoint { origin: SID.to_owned(), size: self.leaves.len() as u64, root: root_of(&self.leaves) };
        let signature = sign(self.key, checkpoint.text().as_bytes());
        SignedNote { signatures: vec![Signature::log(SID, &public(self.key), &signature)], checkpoint }
    }

    fn head(&mut self) {
        assert!(self.client.head(self.note(), None));
    }

    fn roll_over(&mut self) {
        let next = public(self.key + 1);
        let body = body(self.leaves.len() as u64, "checkpoint", Some(next));
        self.client.push_record(&body, false);
        self.leaves.push(leaf(&body));
        assert!(self.client.head(self.note(), Some(next)));
        self.key += 1;
    }

    fn close(&mut self) {
        let body = body(self.leaves.len() as u64, "close", None);
        self.client.push_record(&body, true);
        self.leaves.push(leaf(&body));
        self.head();
    }

    /// Shows all that waits.
    fn show(&mut self, witness: &mut Witness) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(request) = self.client.request() {
            let (status, body) = witness.answer(request.as_bytes());
            let outcome = self.client.answered(status, &body);
            let ends = !matches!(outcome, Outcome::Cosigned(_) | Outcome::Again | Outcome::WentBack);
            outcomes.push(outcome);
            assert!(outcomes.len() < 600, "no end: {outcomes:?}");
            if ends {
                break;
            }
        }
        outcomes
    }
}

/// A witness of one stream, whose commits always succeed.
#[derive(Clone)]
struct Witness {
    state: Option<StreamState>,
    rebased: usize,
}

impl Witness {
    fn new() -> Self {
        Self { state: Some(StreamState::certified(public(1), NOW_S + 60)), rebased: 0 }
    }

    fn judge(&mut self, request: &Request) -> Result<Accepted, Refusal> {
        let state = self.state.as_mut().ok_or(Refusal::Unknown)?;
        let is_own = |note: &SignedNote| note.cosigned_at(WITNESS, &public(9)).is_some();
        let accepted = judge(state, request, NOW_S, is_own)?;
        if !accepted.known {
            state.advance(&accepted);
            self.rebased += usize::from(accepted.rebased.is_some());
        }
        Ok(accepted)
    }

    fn answer(&mut self, body: &[u8]) -> (u16, String) {
        let request = Request::parse(body).expect("a request");
        match self.judge(&request) {
            Ok(_) => {
                let text = request.note.checkpoint.cosigned_text(NOW_S);
                let signature = Signature::witness(WITNESS, &public(9), NOW_S, &sign(9, text.as_bytes()));
                (200, signature.line())
            }
            Err(refusal) => (refusal.status(), refusal.body()),
        }
    }

    fn size(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.size)
    }
}

fn all_cosigned(outcomes: &[Outcome]) -> bool {
    outcomes
        .iter()
        .all(|o| matches!(o, Outcome::Cosigned(note) if note.cosigned_at(WITNESS, &public(9)) == Some(NOW_S)))
}

#[test]
fn w1_a_stream_from_its_first_head_to_its_close() {
    let (mut owner, mut witness) = (Owner::new(), Witness::new());
    owner.seal(1);
    owner.head();
    assert!(all_cosigned(&owner.show(&mut witness)));
    for round in 0..20 {
        owner.seal(round);
        owner.head();
        if round % 3 == 0 {
            owner.roll_over();
        }
        assert!(all_cosigned(&owner.show(&mut witness)), "{round}");
        assert_eq!((witness.size(), owner.client.anchored()), (owner.leaves.len() as u64, owner.leaves.len() as u64));
    }
    owner.close();
    assert!(all_cosigned(&owner.show(&mut witness)));
    assert!(witness.state.as_ref().is_some_and(|state| state.closed));
    owner.seal(1);
    owner.head();
    assert_eq!(owner.show(&mut witness), [Outcome::Refused(422, "the stream is closed".to_owned())]);
}

#[test]
fn k2_after_an_outage_every_rollover_is_shown_and_heads_between_are_not() {
    let (mut owner, mut witness) = (Owner::new(), Witness::new());
    for _ in 0..6 {
        for _ in 0..10 {
            owner.seal(7);
            owner.head();
        }
        owner.roll_over();
    }
    owner.seal(3);
    owner.head();
    let outcomes = owner.show(&mut witness);
    assert!(all_cosigned(&outcomes));
    // Six rollovers and the newest head.
    assert_eq!(outcomes.len(), 7);
    assert_eq!(witness.state.as_ref().map(|state| (state.size, state.key)), Some((429, public(7))));
}

#[test]
fn h1_a_head_may_be_signed_long_after_more_was_sealed() {
    let (mut owner, mut witness) = (Owner::new(), Witness::new());
    let mut notes = Vec::new();
    for round in 0..6 {
        owner.seal(5);
        notes.push((owner.note(), None));
        // A checkpoint that ends no epoch needs not be seen.
        let next = (round % 2 == 1).then(|| public(owner.key + 1));
        let body = body(owner.leaves.len() as u64, "checkpoint", next);
        owner.client.push_record(&body, false);
        owner.leaves.push(leaf(&body));
        notes.push((owner.note(), next));
        owner.key += u8::from(next.is_some());
    }
    owner.seal(2);
    for (note, next) in notes {
        assert!(owner.client.head(note.clone(), next));
        let outcomes = owner.show(&mut witness);
        assert!(all_cosigned(&outcomes) && witness.size() == note.checkpoint.size, "{outcomes:?}");
    }
    let checkpoint = Checkpoint { origin: SID.to_owned(), size: 3, root: root_of(&owner.leaves[..3]) };
    assert!(!owner.client.head(SignedNote { checkpoint, signatures: Vec::new() }, None), "an older one");
    assert!(!owner.client.head(owner.note(), Some(public(9))), "an epoch does not end without its checkpoint");
    owner.head();
    assert!(all_cosigned(&owner.show(&mut witness)));
}

#[test]
fn an_idle_stream_shows_the_same_head_again() {
    let (mut owner, mut witness) = (Owner::new(), Witness::new());
    owner.seal(2);
    assert!(!owner.client.again(), "nothing was shown yet");
    owner.head();
    assert!(!owner.client.again(), "a head waits");
    assert!(all_cosigned(&owner.show(&mut witness)));
    owner.roll_over();
    assert!(all_cosigned(&owner.show(&mut witness)));
    for _ in 0..2 {
        assert!(owner.client.again());
        assert!(all_cosigned(&owner.show(&mut witness)), "signed by a key that is gone");
    }
    owner.seal(1);
    owner.head();
    assert!(all_cosigned(&owner.show(&mut witness)));
}

#[test]
fn w2_a_lost_answer_is_no_alarm() {
    let (mut owner, mut witness) = (Owner::new(), Witness::new());
    owner.seal(5);
    owner.head();
    owner.show(&mut witness);
    for rolls in [false, true] {
        owner.seal(4);
        if rolls {
            owner.roll_over()
        } else {
            owner.head()
        }
        let request = owner.client.request().expect("a head");
        assert_eq!(witness.answer(request.as_bytes()).0, 200);
        owner.client.failed();
        owner.seal(2);
        owner.head();
        let outcomes = owner.show(&mut witness);
        let size = owner.leaves.len() as u64;
        assert_eq!(outcomes.first(), Some(&Outcome::Again));
        assert!(all_cosigned(&outcomes[1..]) && outcomes.len() == 3, "{outcomes:?}");
        assert_eq!((witness.size(), witness.rebased), (size, 0));
    }
}

#[test]
fn w2_a_witness_that_went_back_is_taken_up_again() {
    for then_rolls in [false, true] {
        let (mut owner, mut witness) = (Owner::new(), Witness::new());
        owner.seal(5);
        owner.head();
        owner.show(&mut witness);
        let mut old = witness.clone();
        for _ in 0..3 {
            owner.seal(4);
            owner.roll_over();
            owner.show(&mut witness);
        }
        owner.seal(1);
        if then_rolls {
            owner.roll_over()
        } else {
            owner.head()
        }
        let outcomes = owner.show(&mut old);
        assert_eq!(outcomes.first(), Some(&Outcome::WentBack));
        assert!(all_cosigned(&outcomes[1..]), "{outcomes:?}");
        assert_eq!((old.size(), old.rebased), (owner.leaves.len() as u64, 1));
        owner.seal(2);
        owner.head();
        assert!(all_cosigned(&owner.show(&mut old)));
    }
}

#[test]
fn w2_only_the_witnesss_own_words_say_that_it_went_back_or_refuses() {
    let denied = |status, why: &str| Outcome::Denied(status, why.to_owned());
    let refused = |status, why: &str| Outcome::Refused(status, why.to_owned());
    let (signature, expired) = (Refusal::Signature.body(), Refusal::Expired.body());
    let rebase = Refusal::Rebase.body();
    let table = [
        (403, signature.as_str(), Outcome::WentBack, true),
        (403, &expired, Outcome::Expired, false),
        (403, "", denied(403, ""), false),
        (403, "the stream is not named after this pod\n", denied(403, "the stream is not named after this pod"), false),
        (401, &signature, denied(401, signature.trim_end()), false),
        (422, &rebase, refused(422, rebase.trim_end()), false),
        (422, "", refused(422, ""), false),
        (400, "", refused(400, ""), false),
        (503, &expired, Outcome::Later, false),
    ];
    for (status, body, expected, rebases) in table {
        let (mut owner, mut witness) = (Owner::new(), Witness::new());
        owner.seal(2);
        owner.head();
        owner.show(&mut witness);
        owner.seal(2);
        owner.head();
        owner.client.request().expect("a head");
        assert_eq!(owner.client.answered(status, body), expected, "{status} {body}");
        let next = owner.client.request().expect("the same head");
        assert_eq!(next.contains("\nrebase "), rebases, "{status} {body}");
    }
    // One that began anew under another key takes nothing up: it is not asked to again and again.
    let (mut owner, mut witness) = (Owner::new(), Witness::new());
    owner.seal(2);
    owner.head();
    owner.show(&mut witness);
    owner.roll_over();
    for (status, body, goes_back) in
        [(409, "1\n", true), (422, &rebase, false), (403, &signature, false), (409, "1\n", false)]
    {
        owner.client.request().expect("a head");
        let outcome = owner.client.answered(status, body);
        assert_eq!((outcome == Outcome::WentBack, matches!(outcome, Outcome::Refused(..))), (goes_back, !goes_back));
    }
    for refusal in Refusal::WORDED {
        assert_eq!(Refusal::said(refusal.status(), &refusal.body()), Some(refusal));
        assert_eq!(Refusal::said(refusal.status() + 1, &refusal.body()), None);
    }
}

#[test]
fn the_answers_of_tlog_witness() {
    let mut owner = Owner::new();
    let mut witness = Witness::new();
    owner.seal(8);
    owner.head();
    owner.show(&mut witness);
    let root = |n: usize| root_of(&owner.leaves[..n]);
    let signed = |seed: u8, size: u64, root: Hash| {
        let checkpoint = Checkpoint { origin: SID.to_owned(), size, root };
        let signature = sign(seed, checkpoint.text().as_bytes());
        SignedNote { signatures: vec![Signature::log(SID, &public(seed), &signature)], checkpoint }
    };
    let mut more = owner.leaves.clone();
    more.extend((0..4).map(|n| leaf(&[n])));
    let proof = prove_consistency(&more, 8).expect("a proof");
    let bare = |old, proof: &[Hash], note| Request { old, proof: proof.to_vec(), note, tail: Tail::None };
    let with = |body: Vec<u8>, proof: Vec<Hash>| {
        let mut leaves = owner.leaves.clone();
        leaves.push(leaf(&body));
        let tail = Tail::Record { body, proof };
        let consistency = prove_consistency(&leaves, 8).expect("a proof");
        Request { old: 8, proof: consistency, note: signed(1, 9, root_of(&leaves)), tail }
    };
    let path = vec![root(8)];
    let rebase = |note| {
        let tail = Tail::Rebase { key: public(5), cosigned: Box::new(note) };
        Request { old: 12, proof: Vec::new(), note: signed(5, 12, root_of(&more)), tail }
    };
    let table = [
        (bare(8, &proof, signed(1, 12, root_of(&more))), Ok(false)),
        (bare(8, &[], signed(1, 8, root(8))), Ok(true)),
        (bare(8, &proof, signed(2, 12, root_of(&more))), Err(Refusal::Signature)),
        (bare(9, &[], signed(1, 8, root(8))), Err(Refusal::Backwards)),
        (bare(0, &[], signed(1, 12, root_of(&more))), Err(Refusal::Known(8))),
        (bare(8, &[], signed(1, 8, root(7))), Err(Refusal::Fork(8))),
        (bare(8, &[], signed(1, 12, root_of(&more))), Err(Refusal::Consistency)),
        (bare(8, &proof, signed(1, 12, root(8))), Err(Refusal::Consistency)),
        (bare(8, &path, signed(1, 8, root(8))), Err(Refusal::Consistency)),
        (with(body(8, "close", None), path.clone()), Ok(false)),
        (with(body(8, "checkpoint", Some(public(2))), path.clone()), Ok(false)),
        (with(body(8, "checkpoint", None), path.clone()), Err(Refusal::Record)),
        (with(body(7, "close", None), path.clone()), Err(Refusal::Record)),
        (with(body(8, "exchange", None), path.clone()), Err(Refusal::Record)),
        (with(b"{}".to_vec(), path.clone()), Err(Refusal::Record)),
        (with(body(8, "close", None), Vec::new()), Err(Refusal::Inclusion)),
        (rebase(signed(5, 12, root_of(&more))), Err(Refusal::Rebase)),
    ];
    for (at, (request, expected)) in table.into_iter().enumerate() {
        let again = Request::parse(request.encode().as_bytes()).expect("a request");
        assert_eq!(again, request, "{at}");
        assert_eq!(witness.clone().judge(&again).map(|accepted| accepted.known), expected, "{at}");
    }
    let late = bare(8, &proof, signed(1, 12, root_of(&more)));
    let state = witness.state.clone().expect("a state");
    assert_eq!(judge(&state, &late, NOW_S + 61, |_| true), Err(Refusal::Expired));
    witness.state = None;
    assert_eq!(witness.judge(&late), Err(Refusal::Unknown));
    assert_eq!((Refusal::Known(8).status(), Refusal::Known(8).body()), (409, "8\n".to_owned()));
}

/// The form of the example in C2SP tlog-witness.
#[test]
fn a_plain_request_is_that_of_tlog_witness() {
    let (mut owner, mut witness) = (Owner::new(), Witness::new());
    owner.seal(3);
    owner.head();
    owner.show(&mut witness);
    owner.seal(2);
    owner.head();
    expect_test::expect![[r#"
        old 3
        Edpa+c92Mnw4Opk7GPgAudiqVGJVvtn9KA/KwUka03s=
        2GVYMGqxaKuQbXHirFrDtdywR0w12Lk0wqX/ykMkPJY=
        5fqNq9qUVjqQLF7PilZ9dJ4QXUuPH+OJvEHiWSLCWP4=
        GQ7lxVtMXLSlBnQBFK/GyN/w7VYxqYrW0OPgOyT7ypA=

        c/n/p/0123456789abcdef0123456789abcdef-0-0
        5
        W6EghjbDSr+VgNK2aKRj/Oaxkb8yFecKyQvGn+yjhsQ=

        — c/n/p/0123456789abcdef0123456789abcdef-0-0 zQKQeB7/shz5DWLRuarcy0jWj3lxPnCASCIL/JWoSnDqt6B0wPihFjebz77U0FJXke5CpSbz0tT/0m1Y6D8XAvDrbQE=
    "#]].assert_eq(&owner.client.request().expect("a head"));
}

#[test]
fn bad_requests_are_refused() {
    let (mut owner, mut witness) = (Owner::new(), Witness::new());
    owner.seal(3);
    owner.head();
    owner.show(&mut witness);
    owner.seal(2);
    owner.roll_over();
    let good = owner.client.request().expect("a head");
    let table = [
        (good.replacen("old 3", "old 03", 1), RequestError::Old),
        (good.replacen("old 3", "new 3", 1), RequestError::Old),
        (good.replacen("old 3\n", "old 3\nAAAA\n", 1), RequestError::Proof),
        (
            good.replacen("old 3\n", &format!("old 3\n{}", format!("{}=\n", "A".repeat(43)).repeat(63)), 1),
            RequestError::Proof,
        ),
        (good.replacen("\nrecord ", "\nrecords ", 1), RequestError::Tail),
        (good.replacen("\nrecord ", "\nrecord *", 1), RequestError::Tail),
        ("old 0\n".to_owned(), RequestError::Form),
        ("x".repeat(REQUEST_BYTES_MAX + 1), RequestError::TooLarge),
    ];
    for (body, error) in table {
        assert_eq!(Request::parse(body.as_bytes()).err(), Some(error), "{body}");
    }
    assert_eq!(Request::parse(&[0xff]).err(), Some(RequestError::Form));
    for end in 0..good.len() {
        // A prefix that still is a request is another one, and is judged by what it says.
        if let Ok(request) = Request::parse(&good.as_bytes()[..end]) {
            assert!(matches!(witness.clone().judge(&request), Err(_) | Ok(Accepted { next_key: None, .. })), "{end}");
        }
    }
}

#[test]
fn k1_a_certificate_is_asked_for_by_the_key_itself() {
    let sid: StreamId = SID.parse().expect("a name");
    let der = csr(&sid, &public(1), |info| sign(1, info));
    assert_eq!(parse_csr(&der), Some((sid.clone(), public(1))));
    assert_eq!(stream_uri(&sid), format!("testimony://{SID}"));
    assert_eq!(parse_csr(&csr(&sid, &public(1), |info| sign(2, info))), None, "another's signature");
    for at in 0..der.len() {
        assert_eq!(parse_csr(&der[..at]), None, "{at}");
        let mut changed = der.clone();
        changed[at] ^= 1;
        assert_eq!(parse_csr(&changed), None, "{at}");
    }
}

proptest! {
    #[test]
    fn w2_proofs_of_compact_ranges_are_those_of_the_leaves(old in 0_u64..200, more in 0_u64..200) {
        let leaves: Vec<Hash> = (0..old + more).map(|n| leaf(&n.to_be_bytes())).collect();
        let range = |begin: u64, end: u64| {
            let mut range = Range::empty(begin);
            leaves[begin as usize..end as usize].iter().for_each(|leaf| range.push(*leaf));
            range
        };
        let proof = consistency(&range(0, old), &range(old, old + more));
        prop_assert_eq!(proof, prove_consistency(&leaves, old));
        if let Some(last) = (old + more).checked_sub(1) {
            prop_assert_eq!(inclusion_of_next(&range(0, last)), prove_inclusion(&leaves, last));
        }
    }

    #[test]
    fn any_text_is_parsed_without_harm(text in "(old [0-9]{1,3}\n)?([A-Za-z=]{0,44}\n){0,3}\n(\\PC{0,20}\n){0,4}\n(\u{2014} a [A-Za-z0-9+/]{8}\n)?(\n(record|rebase) \\PC{0,20}\n)?") {
        if let Ok(request) = Request::parse(text.as_bytes()) {
            prop_assert_eq!(request.encode(), text);
        }
    }
}
