//! CPU time of threads, user and system.

/// CPU time so far, in microseconds.
#[derive(Clone, Copy)]
pub struct Cpu {
    /// Of all threads of this process, those too that have ended.
    pub process_us: f64,
    /// Of this thread.
    pub thread_us: f64,
}

impl Cpu {
    /// Now.
    pub fn now() -> Self {
        Self { process_us: usage_us(libc::RUSAGE_SELF), thread_us: usage_us(libc::RUSAGE_THREAD) }
    }

    /// What was used since then.
    pub fn since(&self, before: &Self) -> Self {
        Self { process_us: self.process_us - before.process_us, thread_us: self.thread_us - before.thread_us }
    }
}

fn usage_us(who: libc::c_int) -> f64 {
    // SAFETY: zeros are a valid value of this struct of integers, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(who, &raw mut usage), 0);
        usage
    };
    let us = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// Rounds of one measurement. Neighbours on the machine make some rounds dearer and none cheaper: the least one counts, and
/// the middle one shows how much they did.
pub struct Rounds(Vec<f64>);

impl Rounds {
    /// Of figures that were taken one after the other.
    pub fn new(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    /// Each of them by so much.
    pub fn scaled(self, factor: f64) -> Self {
        Self(self.0.into_iter().map(|figure| figure * factor).collect())
    }

    /// The least.
    pub fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or_default()
    }

    /// The middle one.
    pub fn middle(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }
}

/// Microseconds of this thread for each of `count` calls, in so many rounds.
pub fn measure(rounds: usize, count: u64, mut call: impl FnMut(u64)) -> Rounds {
    let mut number = 0;
    let figures = (0..rounds).map(|_| {
        let before = Cpu::now();
        for _ in 0..count {
            call(number);
            number += 1;
        }
        Cpu::now().since(&before).thread_us / count as f64
    });
    Rounds::new(figures.collect())
}
