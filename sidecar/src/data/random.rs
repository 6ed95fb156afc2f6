//! Randomness for ids: the system's generator, read ahead in blocks so that a request costs no call.

use aws_lc_rs::rand::fill;

/// Bytes fetched at once.
const BLOCK_BYTES: usize = 1024;

/// A source of random ids.
pub struct Random {
    block: [u8; BLOCK_BYTES],
    used: usize,
}

impl Default for Random {
    fn default() -> Self {
        Self { block: [0; BLOCK_BYTES], used: BLOCK_BYTES }
    }
}

impl Random {
    /// 128 random bits.
    pub fn next_u128(&mut self) -> u128 {
        if self.used + 16 > BLOCK_BYTES {
            if fill(&mut self.block).is_err() {
                // The generator is seeded from the kernel and does not fail after that; an id made of time is still unique
                // enough to keep the request going.
                return u128::from(super::now().wall_ns).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            }
            self.used = 0;
        }
        let bytes = self.block.get(self.used..self.used + 16).and_then(|b| b.try_into().ok()).unwrap_or([0; 16]);
        self.used += 16;
        u128::from_le_bytes(bytes)
    }
}
