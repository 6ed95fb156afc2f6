//! Pods that record, restart, crash and end over more than a day, the ledger that is kept meanwhile, and what a backend has of
//! both. Streams and ledger are the real ones; who is honest here never loses anything but what is told.

use crate::evidence_support::{TestKey, origin};
use crate::pod::{Line, Pod, Shown, Thread};
use testimony_core::evidence::ledger::export::head_body;
use testimony_core::evidence::ledger::{Book, Fact, HeadRow, Keys, Life, ledger_id};
use testimony_core::evidence::note::SIGNATURE_BYTES;
use testimony_core::evidence::roots::NamedKey;
use testimony_core::evidence::seal::Signer;
use testimony_core::evidence::stream::StreamId;
use testimony_core::record::Stamp;

/// 2023-11-14.
pub const BEGIN_NS: u64 = 1_700_000_000_000_000_000;
pub const SECOND_NS: u64 = 1_000_000_000;
pub const HOUR_NS: u64 = 3_600 * SECOND_NS;
/// Between two looks at everything.
pub const STEP_NS: u64 = 30 * SECOND_NS;
/// A certificate is good for 26 hours.
const CERTIFICATE_S: u64 = 26 * 3_600;
const LEDGER_KEY: u64 = u64::MAX;

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Everything.
pub struct World {
    pub dice: Dice,
    pub now_ns: u64,
    pods: Vec<Pod>,
    book: Book,
    /// What the backend has.
    pub lines: Vec<Line>,
    /// Entries and heads of the ledger, with their times.
    pub ledger: Vec<(u64, String)>,
    waiting: Vec<Fact>,
    /// Nobody keeps the ledger until then.
    away: Option<(u64, u64)>,
    /// All times without a keeper.
    outages: Vec<(u64, u64)>,
}

pub fn stamp(now_ns: u64) -> Stamp {
    Stamp { wall_ns: now_ns, mono_ns: now_ns - BEGIN_NS + SECOND_NS }
}

pub fn ledger_key() -> NamedKey {
    let sid = ledger_id(&origin(0).cluster_uid, "testimony-system", 7).expect("a name");
    NamedKey { name: sid.to_string(), key: TestKey::numbered(LEDGER_KEY).public() }
}

impl World {
    /// So many hours of a cluster.
    pub fn new(seed: u64, hours: u64) -> Self {
        let sid = ledger_id(&origin(0).cluster_uid, "testimony-system", 7).expect("a name");
        let keys = Keys {
            ledger: TestKey::numbered(LEDGER_KEY).public(),
            witness: TestKey::numbered(LEDGER_KEY - 1).public(),
        };
        let mut this = Self {
            dice: Dice::new(seed),
            now_ns: BEGIN_NS,
            pods: Vec::new(),
            book: Book::new(sid, keys),
            lines: Vec::new(),
            ledger: Vec::new(),
            waiting: Vec::new(),
            away: None,
            outages: Vec::new(),
        };
        let end_ns = BEGIN_NS + hours * HOUR_NS;
        while this.now_ns < end_ns {
            this.now_ns += STEP_NS;
            this.starts(end_ns);
            for number in 0..this.pods.len() {
                this.works(number);
            }
            this.keeps();
        }
        this.pods.iter_mut().for_each(|pod| this.lines.append(&mut pod.thread.lines));
        this
    }

    /// Whether the ledger had a head over this record, and had it soon.
    pub fn is_shown(&self, line: &Line) -> bool {
        let row = self.book.tables().stream(&line.sid);
        let is_away = |from_ns: u64, to_ns: u64| (from_ns..to_ns + 1_800 * SECOND_NS).contains(&line.sealed_ns);
        let is_late = self.outages.iter().any(|(from_ns, to_ns)| is_away(*from_ns, *to_ns));
        !is_late && row.is_some_and(|row| line.seq.is_some_and(|seq| seq < row.state.size))
    }

    /// Whether nobody kept the ledger for some of this time.
    pub fn was_away(&self, from_ns: u64, to_ns: u64) -> bool {
        self.outages.iter().any(|(begun_ns, over_ns)| *begun_ns <= to_ns && *over_ns >= from_ns)
    }

    /// One pod from the first minutes on; others come and go.
    fn starts(&mut self, end_ns: u64) {
        let alive = self.pods.iter().filter(|pod| !pod.is_gone).count();
        if !(self.pods.is_empty() || (alive < 3 && self.dice.one_in(240))) {
            return;
        }
        let number = self.pods.len() as u64;
        let life_ns = self.dice.below(20 * 120) * STEP_NS + 2 * STEP_NS;
        let to_ns = if number == 0 { end_ns + 1 } else { self.now_ns + life_ns };
        let thread = Thread { keys: number << 32, random: u128::from(number) << 64, ..Thread::default() };
        let mut pod = Pod {
            number,
            from_ns: self.now_ns,
            to_ns,
            boot: u128::from(number) << 32,
            stream: None,
            thread,
            started_ns: self.now_ns,
            uncertified: Vec::new(),
            certified: Vec::new(),
            is_gone: false,
            hole_ns: 0,
            connection_ns: None,
            is_cut_off: false,
        };
        self.waiting.push(Fact::Expected(pod.row()));
        pod.open(self.now_ns, None);
        self.pods.push(pod);
    }

    fn works(&mut self, number: usize) {
        let (now_ns, dice) = (self.now_ns, &mut self.dice);
        let pod = &mut self.pods[number];
        if pod.is_gone {
            return;
        }
        pod.thread.now_ns = now_ns;
        pod.thread.is_full = dice.one_in(400);
        let busy = if dice.one_in(8) { dice.below(6) } else { dice.below(2) };
        for _ in 0..busy {
            pod.exchange(now_ns, dice);
        }
        pod.connection(now_ns);
        pod.thread.is_full = false;
        pod.ticks(now_ns);
        if dice.one_in(1_500) && now_ns < pod.to_ns {
            pod.crashes(now_ns, dice);
        }
        pod.is_cut_off |= now_ns + 10 * STEP_NS > pod.to_ns && dice.one_in(40);
        let hole = (dice.one_in(900) && !pod.is_cut_off).then(|| pod.loses(now_ns, dice)).flatten();
        if now_ns >= pod.to_ns {
            pod.ends(now_ns, dice);
            if self.away.is_some() {
                pod.thread.forget_unshown();
            }
            self.waiting.extend(pod.last_words());
        }
        let mut lines = std::mem::take(&mut pod.thread.lines);
        if let Some((sid, seqs)) = hole {
            self.lines.retain(|line| line.sid != sid || !line.seq.is_some_and(|seq| seqs.contains(&seq)));
            lines.retain(|line| line.sid != sid || !line.seq.is_some_and(|seq| seqs.contains(&seq)));
        }
        if pod.is_cut_off {
            pod.thread.lines = lines;
        } else {
            self.lines.append(&mut lines);
        }
        if pod.is_gone {
            pod.thread.lines.clear();
        }
    }

    /// A block of the ledger, unless nobody keeps it.
    fn keeps(&mut self) {
        match self.away {
            Some((_, to_ns)) if self.now_ns < to_ns => return,
            Some((from_ns, _)) => {
                self.away = None;
                self.waiting.insert(0, Fact::Resumed(from_ns));
            }
            None if self.dice.one_in(1_200) => {
                let from_ns = self.ledger.last().map_or(BEGIN_NS, |(at_ns, _)| *at_ns);
                let to_ns = self.now_ns + self.dice.below(240) * STEP_NS;
                self.away = Some((from_ns, to_ns));
                self.outages.push((self.now_ns, to_ns));
                return;
            }
            None => {}
        }
        let mut facts = std::mem::take(&mut self.waiting);
        let (mut heads, mut ends) = (Vec::new(), Vec::new());
        for pod in &mut self.pods {
            for (sid, key) in std::mem::take(&mut pod.uncertified) {
                let until_s = self.now_ns / SECOND_NS + CERTIFICATE_S;
                facts.push(Fact::Certified((*sid).clone(), key, until_s, vec![0x30, 0]));
                pod.certified.push(((*sid).clone(), key));
            }
            let known = |sid: &StreamId| pod.certified.iter().any(|(known, _)| known == sid);
            let (epochs, later) = std::mem::take(&mut pod.thread.epochs)
                .into_iter()
                .partition(|epoch| matches!(epoch, Fact::Epoch(sid, ..) if known(sid)));
            facts.extend::<Vec<_>>(epochs);
            pod.thread.epochs = later;
            for (sid, shown) in std::mem::take(&mut pod.thread.shown) {
                if !known(&sid) {
                    pod.thread.shown.insert(sid, shown);
                } else if shown.closes {
                    ends.push(Fact::Closed(sid, shown.size, shown.root));
                } else {
                    heads.push((sid, shown));
                }
            }
        }
        // Ends of streams come before what is said of their pods.
        let (gone, mut facts): (Vec<_>, Vec<_>) =
            facts.into_iter().partition(|fact| matches!(fact, Fact::Gone(_) | Fact::Lost(..)));
        facts.extend(ends);
        self.commit(&facts, heads);
        self.commit(&gone.into_iter().filter_map(|fact| self.last(fact)).collect::<Vec<_>>(), Vec::new());
    }

    /// A stream is lost as far as the ledger knows it, if it did not close.
    fn last(&self, fact: Fact) -> Option<Fact> {
        let Fact::Lost(sid, ..) = &fact else { return Some(fact) };
        let row = self.book.tables().stream(sid)?;
        let is_open = row.life == Life::Open;
        is_open.then(|| Fact::Lost(sid.clone(), row.state.size, row.state.root))
    }

    fn commit(&mut self, facts: &[Fact], heads: Vec<(StreamId, Shown)>) {
        let sign = |text: &[u8]| TestKey::numbered(LEDGER_KEY).sign(text);
        if !facts.is_empty() {
            self.block(facts, &[], sign);
        }
        let row = |(sid, Shown { size, root, .. }): &(StreamId, Shown)| {
            let known = self.book.tables().stream(sid)?;
            (known.state.size < *size).then_some(HeadRow { stream: known.number, size: *size, root: *root })
        };
        let heads: Vec<HeadRow> = heads.iter().filter_map(row).collect();
        if !heads.is_empty() || self.ledger.last().is_none_or(|(at_ns, _)| self.now_ns > at_ns + 300 * SECOND_NS) {
            let facts = if heads.is_empty() { vec![Fact::Heads(Vec::new())] } else { Vec::new() };
            self.block(&facts, &heads, sign);
        }
    }

    fn block(&mut self, facts: &[Fact], heads: &[HeadRow], sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES]) {
        let proposed = self.book.propose(facts, heads, self.now_ns, sign).expect("a block");
        let block = proposed.block();
        self.ledger.extend(block.entries.lines().map(|line| (self.now_ns, line.to_owned())));
        let head = String::from_utf8(head_body(&block.note)).expect("ASCII");
        self.ledger.push((self.now_ns, head));
        self.book.apply(proposed.committed()).expect("the next block");
    }
}
