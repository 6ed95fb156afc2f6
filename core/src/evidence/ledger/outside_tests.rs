use super::outside::{Answer, Outside};
use super::tests::{Keeper, certified, pair, pod, public, sid};
use super::*;
use crate::evidence::note::{Signature, SignedNote};
use crate::evidence::roots::NamedKey;
use crate::evidence::witness::{Refusal, Request, StreamState, judge};

fn named() -> NamedKey {
    NamedKey { name: "outside.example/w".to_owned(), key: public(7) }
}

/// A witness that trusts the ledger's key.
struct Witness(StreamState);

impl Witness {
    fn new() -> Self {
        Self(StreamState::certified(public(8), u64::MAX))
    }

    fn ask(&mut self, body: &str) -> (u16, String) {
        let request = Request::parse(body.as_bytes()).expect("what any witness takes");
        match judge(&self.0, &request, 5, |_| false) {
            Ok(accepted) => {
                self.0.advance(&accepted);
                let text = request.note.checkpoint.cosigned_text(5);
                let signature = pair(7).sign(text.as_bytes()).as_ref().try_into().expect("64 bytes");
                (200, Signature::witness(&named().name, &named().key, 5, &signature).line())
            }
            Err(Refusal::Known(size)) => (409, format!("{size}\n")),
            Err(refusal) => (422, format!("{refusal}\n")),
        }
    }
}

/// Walks on to the newest block and asks.
fn show(outside: &mut Outside, keeper: &Keeper, witness: &mut Witness) -> Option<Answer> {
    for block in keeper.blocks.iter().filter(|block| block.number >= outside.next_block()).cloned().collect::<Vec<_>>()
    {
        outside.push(&block).expect("it follows");
    }
    let (status, body) = witness.ask(&outside.request()?);
    Some(outside.answered(status, &body))
}

fn keeper(blocks: u64) -> Keeper {
    let mut keeper = Keeper::new();
    for n in 0..blocks {
        keeper.commit(&[Fact::Expected(pod(n)), certified(n)], &[]);
    }
    keeper
}

#[test]
fn w3_a_witness_outside_follows_the_ledger_from_its_first_head() {
    let (mut keeper, mut witness) = (keeper(3), Witness::new());
    let mut outside = Outside::begin(&keeper.blocks[0], 0, named()).expect("the first block");
    for n in 3..40 {
        let Some(Answer::Cosigned(note)) = show(&mut outside, &keeper, &mut witness) else { panic!("block {n}") };
        let signed = SignedNote::parse(&note).expect("a note");
        assert_eq!(signed.checkpoint.size, keeper.book.size());
        assert!(signed.is_signed_by(keeper.book.sid().as_str(), &public(8)));
        assert_eq!(signed.cosigned_at(&named().name, &named().key), Some(5));
        // What it said stands in the ledger, and is no news for it.
        keeper.commit(&[Fact::Witnessed(note)], &[]);
        assert_eq!(show(&mut outside, &keeper, &mut witness), None);
        keeper.commit(&[certified(n)], &[]);
    }
    keeper.check();
}

#[test]
fn w3_after_a_restart_the_witness_says_where_it_stands() {
    let (mut keeper, mut witness) = (keeper(5), Witness::new());
    let first = keeper.blocks[0].clone();
    let mut outside = Outside::begin(&first, 0, named()).expect("the first block");
    assert!(matches!(show(&mut outside, &keeper, &mut witness), Some(Answer::Cosigned(_))));
    let known = keeper.book.size();
    (20..24).for_each(|n| drop(keeper.commit(&[certified(n)], &[])));
    let mut again = Outside::begin(&first, 0, named()).expect("the first block");
    assert_eq!(show(&mut again, &keeper, &mut witness), Some(Answer::Elsewhere(known)));
    let mut again = Outside::begin(&first, known, named()).expect("the first block");
    assert!(matches!(show(&mut again, &keeper, &mut witness), Some(Answer::Cosigned(_))));
    // Where it stands is no head of this ledger: nothing can be shown.
    let mut lost = Outside::begin(&first, known - 1, named()).expect("the first block");
    assert_eq!((show(&mut lost, &keeper, &mut witness), lost.astray()), (None, Some(known - 1)));
}

#[test]
fn w3_old_blocks_may_be_gone_unless_the_witness_stands_there() {
    let mut keeper = keeper(STATE_EVERY_BLOCKS + 3);
    keeper.commit(&[Fact::Lost(sid(1), 0, crate::evidence::merkle::empty_root())], &[]);
    let begins = |block: &&Block| block.number > 0 && block.begins().is_some();
    let first = keeper.blocks.iter().find(begins).expect("a restatement").clone();
    let mut witness = Witness::new();
    let mut outside = Outside::begin(&first, 0, named()).expect("a restatement");
    assert!(matches!(show(&mut outside, &keeper, &mut witness), Some(Answer::Cosigned(_))), "it knew nothing");
    let error = Outside::begin(&first, 1, named()).map(drop).expect_err("behind");
    assert!(error.to_string().contains("the witness knows 1 entries"), "{error}");
    assert!(Outside::begin(&keeper.blocks[1], 0, named()).is_err(), "reading cannot begin there");
}

#[test]
fn w3_a_head_whose_answer_was_lost_is_shown_until_it_is_answered_and_no_block_of_before_is_needed() {
    for taken in [true, false] {
        let (mut keeper, mut witness) = (keeper(3), Witness::new());
        let ledger = keeper.book.sid().clone();
        let mut outside = Outside::begin(&keeper.blocks[0], 0, named()).expect("the first block");
        for round in 0..4 {
            let size = keeper.book.size();
            keeper
                .blocks
                .iter()
                .filter(|block| block.number >= outside.next_block())
                .cloned()
                .collect::<Vec<_>>()
                .iter()
                .for_each(|block| outside.push(block).expect("it follows"));
            let request = outside.request().expect("news");
            if taken {
                assert_eq!(witness.ask(&request).0, 200);
            }
            assert!(matches!(outside.answered(503, ""), Answer::Refused(_)), "the answer is lost");
            // It stays away, another leader comes, and what was there is gone.
            keeper.commit(&[certified(20 + round)], &[]);
            let mut outside_then = Outside::restored(&outside.kept(), &ledger, &named()).expect("what was kept");
            let there = keeper.blocks.len() - 1;
            keeper.blocks.drain(..there);
            if taken {
                assert_eq!(show(&mut outside_then, &keeper, &mut witness), Some(Answer::Known));
            }
            let Some(Answer::Cosigned(note)) = show(&mut outside_then, &keeper, &mut witness) else {
                panic!("{round}")
            };
            assert_eq!((SignedNote::parse(&note).expect("a note").checkpoint.size, witness.0.size), (size, size));
            outside = outside_then;
            // And the next time with nothing of before.
            assert!(matches!(show(&mut outside, &keeper, &mut witness), Some(Answer::Cosigned(_))));
            assert_eq!((witness.0.size, show(&mut outside, &keeper, &mut witness)), (keeper.book.size(), None));
            keeper.commit(&[certified(30 + round)], &[]);
        }
    }
}

#[test]
fn w3_a_witness_that_says_where_it_stands_and_stands_elsewhere_is_believed_once() {
    let keeper = keeper(2);
    let mut outside = Outside::begin(&keeper.blocks[0], 0, named()).expect("the first block");
    keeper.blocks.iter().for_each(|block| outside.push(block).expect("it follows"));
    let size = keeper.book.size();
    assert_eq!(outside.answered(409, &format!("{size}\n")), Answer::Elsewhere(size), "nothing was shown");
    assert!(outside.request().is_some());
    assert_eq!(outside.answered(409, &format!("{}\n", size - 1)), Answer::Elsewhere(size - 1));
    assert_eq!(outside.answered(409, &format!("{size}\n")), Answer::Known);
    assert_eq!(outside.answered(409, &format!("{size}\n")), Answer::Elsewhere(size), "it was asked from there");
}

#[test]
fn w3_what_is_no_cosignature_of_the_configured_key_is_refused() {
    let keeper = keeper(2);
    let mut outside = Outside::begin(&keeper.blocks[0], 0, named()).expect("the first block");
    keeper.blocks.iter().for_each(|block| outside.push(block).expect("it follows"));
    let good = Witness::new().ask(&outside.request().expect("news")).1;
    for (status, body) in [
        (200, String::new()),
        (200, "\n".to_owned()),
        (200, good.replace("outside.example/w", "another.example/w")),
        (200, format!("{}AAAA\n", &good[..good.len() - 5])),
        (404, "unknown origin\n".to_owned()),
        (409, "no number\n".to_owned()),
        (403, "signature\n".to_owned()),
        (503, String::new()),
    ] {
        let answer = outside.answered(status, &body);
        assert!(matches!(answer, Answer::Refused(_)), "{status} {body}: {answer:?}");
        for end in 0..body.len() {
            let _ = outside.answered(status, body.get(..end).unwrap_or_default());
        }
    }
    assert!(matches!(outside.answered(200, &good), Answer::Cosigned(_)));
    assert_eq!(outside.request(), None, "nothing new");
}

#[test]
fn w3_a_walk_is_kept_for_the_next_leader() {
    let (mut keeper, mut witness) = (keeper(5), Witness::new());
    let mut outside = Outside::begin(&keeper.blocks[0], 0, named()).expect("the first block");
    let ledger = keeper.book.sid().clone();
    let restored = |text: &str| Outside::restored(text, &ledger, &named());
    // Before the witness knows anything, and after.
    outside.push(&keeper.blocks[0]).expect("it follows");
    let mut again = restored(&outside.kept()).expect("what was kept");
    assert!(matches!(show(&mut again, &keeper, &mut witness), Some(Answer::Cosigned(_))));
    (20..24).for_each(|n| drop(keeper.commit(&[certified(n)], &[])));
    for block in &keeper.blocks[5..] {
        again.push(block).expect("it follows");
    }
    let text = again.kept();
    assert_eq!(restored(&text).map(|walk| walk.kept()).as_ref(), Some(&text));
    // Nothing of before is there any more.
    (30..33).for_each(|n| drop(keeper.commit(&[certified(n)], &[])));
    keeper.blocks.drain(..9);
    let mut next = restored(&text).expect("what was kept");
    assert_eq!((next.request(), next.ledger(), next.next_block()), (None, &ledger, 9), "nothing new yet");
    assert!(matches!(show(&mut next, &keeper, &mut witness), Some(Answer::Cosigned(_))));
    assert_eq!(witness.0.size, keeper.book.size());

    let another: StreamId = ledger.to_string().replacen("c-1", "c-2", 1).parse().expect("a name");
    assert!(Outside::restored(&text, &another, &named()).is_none(), "another ledger's");
    let other = NamedKey { name: "other.example/w".to_owned(), ..named() };
    assert!(Outside::restored(&text, &ledger, &other).is_none(), "another witness's");
    for (what, with) in [("\"from\":0", "\"from\":1"), ("\"wanted\"", "\"wantet\""), ("\"to\":", "\"to\":1")] {
        assert!(restored(&text.replacen(what, with, 1)).is_none(), "{what}");
    }
    for end in 0..text.len() {
        assert!(restored(&text[..end]).is_none(), "{end}");
    }
}
