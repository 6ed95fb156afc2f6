//! Quantities as Kubernetes writes them: `500m`, `1.5Gi`, `1e3`. Pods, flags of the operator and of the command line hold them.

/// A quantity, exact to a billionth; what is finer counts as one more, as in Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    billionths: i128,
}

/// Billionths have this power of ten, negated.
const EXACT_DIGITS: i32 = 9;

/// The largest that Kubernetes knows, in whole units.
const WHOLE_MAX: u128 = i64::MAX as u128;

/// How a quantity is written.
const FORM: &str = "write digits with one of n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei or nothing behind them, such as \
                    100m, 64Mi or 1.5Gi";

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { billionths: 0 };

    /// Reads one.
    ///
    /// # Errors
    /// It is none, or larger than Kubernetes takes; says how one is written.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let magnitude = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = magnitude.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(magnitude.len());
        let (number, suffix) = magnitude.split_at_checked(end).ok_or(FORM)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || whole.len() + fraction.len() == 0 {
            return Err(FORM);
        }
        let (twos, tens) = powers(suffix).ok_or(FORM)?;
        let billionths = billionths(whole, fraction.trim_end_matches('0'), twos, tens);
        let billionths = billionths.ok_or("it is larger than 2^63 - 1, or has too many digits")?;
        Ok(Self { billionths: if text.starts_with('-') { -billionths } else { billionths } })
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { billionths: self.billionths.saturating_add(other.billionths) }
    }

    /// As a number, near enough for sums of requests and limits.
    pub fn as_f64(self) -> f64 {
        self.billionths as f64 / 1e9
    }

    /// In whole units; a part counts as one more. `None`: it is below zero.
    pub fn whole(self) -> Option<u64> {
        u64::try_from(u128::try_from(self.billionths).ok()?.div_ceil(10_u128.pow(EXACT_DIGITS.unsigned_abs()))).ok()
    }
}

/// The powers of two and of ten that a suffix stands for.
fn powers(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

/// `whole.fraction` times these powers, in billionths.
fn billionths(whole: &str, fraction: &str, twos: u32, tens: i32) -> Option<i128> {
    let mut value: u128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        value = value.checked_mul(10)?.checked_add(u128::from(digit.checked_sub(b'0')?))?;
    }
    value = value.checked_mul(1_u128.checked_shl(twos)?)?;
    let tens = tens.checked_add(EXACT_DIGITS)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let factor = 10_u128.checked_pow(tens.unsigned_abs());
    value = match (value, factor) {
        (0, _) => 0,
        (_, Some(factor)) if tens >= 0 => value.checked_mul(factor)?,
        (_, Some(factor)) => value.div_ceil(factor),
        (_, None) if tens >= 0 => return None,
        (_, None) => 1,
    };
    let most = WHOLE_MAX.checked_mul(10_u128.pow(EXACT_DIGITS.unsigned_abs()))?;
    i128::try_from(value).ok().filter(|_| value <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chart's reader is tried on the same table.
    #[test]
    fn the_table_of_quantities() {
        let mut tried = 0;
        for line in include_str!("../tests/vectors/quantities.cases").lines().filter(|line| !line.starts_with('#')) {
            let (text, wanted) = line.split_once(" = ").expect("TEXT = BILLIONTHS");
            let read = Quantity::parse(text).map(|quantity| quantity.billionths.to_string());
            assert_eq!(read.as_deref().unwrap_or("none"), wanted, "{text:?}");
            tried += 1;
        }
        assert!(tried > 40, "the table is no longer read");
    }

    #[test]
    fn what_is_written_in_several_ways_is_one_number() {
        let read = |text: &str| Quantity::parse(text).expect("a quantity");
        for milli in 0..3000 {
            let decimal = format!("{}.{:03}", milli / 1000, milli % 1000);
            assert_eq!(read(&format!("{milli}m")), read(&decimal));
            assert_eq!(read(&decimal).as_f64(), decimal.parse::<f64>().expect("a number"), "{decimal}");
        }
        assert!(read("100m") < read("0.2") && read("-1") < Quantity::ZERO);
        assert_eq!(
            ["0", "1n", "1.5Gi", "7Ei"].map(|text| read(text).whole()),
            [Some(0), Some(1), Some(3 << 29), Some(7 << 60)]
        );
        assert_eq!(read("-1").whole(), None);
    }

    #[test]
    fn what_is_none_says_how_one_is_written() {
        assert!(Quantity::parse("10gb").expect_err("none").contains("such as 100m"));
        assert!(Quantity::parse("8Ei").expect_err("too large").contains("larger than"));
    }
}
