//! As much of HTTP/1.1 as the harness speaks, on blocking sockets; and the chance that it throws with.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest head, in bytes: a peer that sends more is no part of this harness.
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// A request or a response, whole.
pub struct Message {
    /// The first line, without its end.
    pub first: String,
    /// The body, as `content-length` tells it.
    pub body: Vec<u8>,
    /// Value of `content-encoding`.
    pub encoding: String,
}

impl Message {
    /// The next one; `None`: the connection ended or failed before it was whole.
    pub fn read(reader: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut message = Self { first: line(reader)?, body: Vec::new(), encoding: String::new() };
        let mut length = 0;
        loop {
            let line = line(reader)?.to_ascii_lowercase();
            match line.split_once(':') {
                _ if line.is_empty() => break,
                Some(("content-length", value)) => length = value.trim().parse().ok()?,
                Some(("content-encoding", value)) => value.trim().clone_into(&mut message.encoding),
                _ => {}
            }
        }
        message.body = vec![0; length];
        reader.read_exact(&mut message.body).ok()?;
        Some(message)
    }

    /// The second word of the first line: a request's target, a response's status.
    pub fn word(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }
}

fn line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    reader.take(HEAD_BYTES_MAX).read_line(&mut line).ok()?;
    line.strip_suffix("\r\n").map(str::to_owned)
}

/// Numbers that a seed repeats (SplitMix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// With the seed of `TESTIMONY_SEED`, or one of the clock; says which, so that a failure can be repeated.
    pub fn of(test: &str) -> Self {
        let seed = match std::env::var("TESTIMONY_SEED") {
            Ok(seed) => seed.parse().expect("TESTIMONY_SEED is a number"),
            Err(_) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
                u64::try_from(now.as_micros()).expect("small")
            }
        };
        println!("{test}: TESTIMONY_SEED={seed}");
        Self(seed)
    }

    /// With this seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `from` up to, but not including, `to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }
}
