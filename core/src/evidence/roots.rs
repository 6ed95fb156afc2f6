//! What a verification must be given, and can't find out by itself: the keys of ledger and witness, and the authorities that
//! sign certificates. A text that people can keep and compare.
//!
//! ```text
//! # any line that begins with a hash is for people
//! ledger <key>          C2SP verifier keys: NAME+ID+KEY
//! witness <key>
//! -----BEGIN CERTIFICATE-----
//! ...
//! ```

use super::note::{PUBLIC_KEY_BYTES, PublicKey, Role};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Largest text of roots, in bytes.
pub const ROOTS_BYTES_MAX: usize = 256 * 1024;

/// A key and its name, as C2SP signed-note writes verifier keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKey {
    /// Name in signature lines.
    pub name: String,
    /// The key.
    pub key: PublicKey,
}

impl NamedKey {
    /// `NAME+ID+KEY`: the id in hex, type and key in base64.
    pub fn vkey(&self, role: Role) -> String {
        let id: String = self.key.id(&self.name, role).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}+{id}+{}", self.name, STANDARD.encode([&[role.type_byte()], &self.key.0[..]].concat()))
    }

    /// The inverse of [`NamedKey::vkey`]; `None`: it is none, of another role, or its id is wrong.
    pub fn parse(text: &str, role: Role) -> Option<Self> {
        let mut parts = text.splitn(3, '+');
        let (name, _, encoded) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = STANDARD.decode(encoded).ok()?;
        let (_, key) = bytes.split_first()?;
        let key = PublicKey(<[u8; PUBLIC_KEY_BYTES]>::try_from(key).ok()?);
        let named = Self { name: name.to_owned(), key };
        let fits = !name.is_empty() && !name.contains(char::is_whitespace);
        (fits && named.vkey(role) == text).then_some(named)
    }
}

/// Trust roots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Keys that sign heads of ledgers.
    pub ledgers: Vec<NamedKey>,
    /// Keys that cosign heads: the operator's, and those of witnesses outside.
    pub witnesses: Vec<NamedKey>,
    /// Authorities, in PEM.
    pub authorities: String,
}

/// Why a text holds no roots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct RootsError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Roots {
    /// The text.
    pub fn encode(&self) -> String {
        let keys = self.ledgers.iter().map(|key| format!("ledger {}\n", key.vkey(Role::Log)));
        let cosigners = self.witnesses.iter().map(|key| format!("witness {}\n", key.vkey(Role::Witness)));
        keys.chain(cosigners).chain([self.authorities.clone()]).collect()
    }

    /// Parses a text. Whether the authorities are certificates is left to who can read them.
    ///
    /// # Errors
    /// Names the line.
    pub fn parse(text: &str) -> Result<Self, RootsError> {
        let mut roots = Self::default();
        let mut in_certificate = false;
        let mut last = 0;
        if text.len() > ROOTS_BYTES_MAX {
            return Err(RootsError { line: 0, problem: "the file is larger than 256 KiB" });
        }
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_end();
            last = at + 1;
            let error = |problem| RootsError { line: at + 1, problem };
            let begins = line == "-----BEGIN CERTIFICATE-----";
            if in_certificate || begins {
                if in_certificate && begins {
                    return Err(error("a certificate begins within another"));
                }
                roots.authorities.push_str(line);
                roots.authorities.push('\n');
                in_certificate = line != "-----END CERTIFICATE-----";
            } else if let Some(key) = line.strip_prefix("ledger ") {
                let key = NamedKey::parse(key, Role::Log).ok_or(error("not a verifier key of a ledger"))?;
                roots.ledgers.push(key);
            } else if let Some(key) = line.strip_prefix("witness ") {
                let key = NamedKey::parse(key, Role::Witness).ok_or(error("not a verifier key of a witness"))?;
                roots.witnesses.push(key);
            } else if !line.is_empty() && !line.starts_with('#') {
                return Err(error("neither `ledger KEY`, `witness KEY`, a certificate in PEM, nor a comment"));
            }
        }
        if in_certificate {
            return Err(RootsError { line: last, problem: "the certificate has no end" });
        }
        Ok(roots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8, name: &str) -> NamedKey {
        NamedKey { name: name.to_owned(), key: PublicKey([byte; PUBLIC_KEY_BYTES]) }
    }

    fn roots() -> Roots {
        let authorities = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        Roots { ledgers: vec![key(1, "c/o/ledger/x-0-0")], witnesses: vec![key(2, "c/o/witness")], authorities }
    }

    #[test]
    fn roots_are_written_and_read_back() {
        let text = roots().encode();
        expect_test::expect![[r#"
            ledger c/o/ledger/x-0-0+6efab3a9+AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB
            witness c/o/witness+66ece00d+BAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC
            -----BEGIN CERTIFICATE-----
            AAAA
            -----END CERTIFICATE-----
        "#]]
        .assert_eq(&text);
        assert_eq!(Roots::parse(&text), Ok(roots()));
        assert_eq!(Roots::parse(&format!("# for people\n\n{text}")), Ok(roots()));
    }

    #[test]
    fn bad_roots_name_the_line() {
        let good = roots().encode();
        let table = [
            (good.replacen("ledger ", "ledgers ", 1), 1, "neither"),
            (good.replacen("witness ", "ledger ", 1), 2, "not a verifier key of a ledger"),
            (good.replacen("ledger c", "ledger d", 1), 1, "not a verifier key of a ledger"),
            (good.replacen("-----END", "----END", 1), 5, "has no end"),
            (good.replacen("AAAA", "-----BEGIN CERTIFICATE-----", 1), 4, "within another"),
            ("x".repeat(ROOTS_BYTES_MAX + 1), 0, "larger"),
        ];
        for (text, line, problem) in table {
            let error = Roots::parse(&text).expect_err(problem);
            assert!(error.line == line && error.problem.contains(problem), "{error}");
        }
    }
}
