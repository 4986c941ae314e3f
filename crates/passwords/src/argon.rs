//! argon2id (RFC 9106), in the string form `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use rand::{TryRngCore as _, rngs::OsRng};
use subtle::ConstantTimeEq as _;

/// Bytes of salt of a new hash.
const SALT_BYTES: usize = 16;
/// Bytes of a new hash.
const HASH_BYTES: usize = 32;
/// The most memory that a stored hash may ask for.
const MEMORY_AT_MOST_KIB: u32 = 65_536;
/// The most passes, and lanes.
const PASSES_AT_MOST: u32 = 16;
/// The most work that a stored hash may ask for: passes over so many KiB. About a second.
const WORK_AT_MOST_KIB: u32 = 4 * MEMORY_AT_MOST_KIB;
/// What the memory for a hash is allocated as. glibc never keeps blocks of more than 32 MiB for the next one, so that
/// what a login took is given back to the system; only what is written to is ever resident.
const ALLOCATED_KIB: usize = 33 * 1024;

/// What a hash costs whoever computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
}

impl Default for Cost {
    /// 19 MiB and two passes, the least that OWASP's Password Storage Cheat Sheet asks of argon2id.
    fn default() -> Self {
        Self {
            memory_kib: 19_456,
            passes: 2,
        }
    }
}

impl Cost {
    /// For tests: protects nothing.
    pub const NONE: Self = Self {
        memory_kib: 8,
        passes: 1,
    };

    /// Whether hashes of this cost can be made, and checked later.
    #[must_use]
    pub const fn is_possible(self) -> bool {
        self.memory_kib >= Params::MIN_M_COST
            && self.memory_kib <= MEMORY_AT_MOST_KIB
            && self.passes >= 1
            && self.passes <= PASSES_AT_MOST
            && self.memory_kib.saturating_mul(self.passes) <= WORK_AT_MOST_KIB
    }

    /// A new hash, with a salt from the system's generator. Blocks for tens of milliseconds by purpose, and takes
    /// [`memory_kib`](Self::memory_kib). A cost that isn't [possible](Self::is_possible) counts as the default.
    #[must_use]
    pub fn hash_blocking(self, password: &str) -> String {
        let cost = if self.is_possible() {
            self
        } else {
            Self::default()
        };
        let mut salt = [0; SALT_BYTES];
        // A system without random numbers can't do TLS either; a hash without salt must never be.
        #[allow(
            clippy::expect_used,
            reason = "there is no way on without random numbers"
        )]
        OsRng
            .try_fill_bytes(&mut salt)
            .expect("the system has random numbers");
        let hash = compute(password, &salt, cost, 1, HASH_BYTES).unwrap_or_default();
        encoded(cost, &salt, &hash)
    }

    /// A hash of this cost of something that nobody knows, computed without doing the work.
    #[must_use]
    pub fn of_nobody(self) -> String {
        encoded(self, &[0; SALT_BYTES], &[0; HASH_BYTES])
    }
}

fn encoded(cost: Cost, salt: &[u8], hash: &[u8]) -> String {
    format!(
        "$argon2id$v=19$m={},t={},p=1${}${}",
        cost.memory_kib,
        cost.passes,
        BASE64_STANDARD_NO_PAD.encode(salt),
        BASE64_STANDARD_NO_PAD.encode(hash)
    )
}

/// A hash as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Argon2id {
    pub(crate) cost: Cost,
    lanes: u32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Argon2id {
    /// Reads the string form; nothing that asks for more than is bearable.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("$argon2id$v=19$")?;
        let mut parts = rest.split('$');
        let (costs, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let (mut memory_kib, mut passes, mut lanes) = (None, None, None);
        for cost in costs.split(',') {
            let (name, value) = cost.split_once('=')?;
            let value = value.parse::<u32>().ok()?;
            match name {
                "m" => memory_kib = Some(value),
                "t" => passes = Some(value),
                "p" => lanes = Some(value),
                _ => return None,
            }
        }
        let (cost, lanes) = (
            Cost {
                memory_kib: memory_kib?,
                passes: passes?,
            },
            lanes?,
        );
        let decode = |text: &str| BASE64_STANDARD_NO_PAD.decode(text).ok();
        let (salt, hash) = (decode(salt)?, decode(hash)?);
        let possible = cost.is_possible()
            && (1..=16).contains(&lanes)
            && (8..=64).contains(&salt.len())
            && (16..=64).contains(&hash.len());
        possible.then_some(Self {
            cost,
            lanes,
            salt,
            hash,
        })
    }

    pub(crate) fn verify_blocking(&self, password: &str) -> bool {
        compute(password, &self.salt, self.cost, self.lanes, self.hash.len())
            .is_some_and(|hash| hash.ct_eq(&self.hash).into())
    }
}

fn compute(password: &str, salt: &[u8], cost: Cost, lanes: u32, length: usize) -> Option<Vec<u8>> {
    let params = Params::new(cost.memory_kib, cost.passes, lanes, Some(length)).ok()?;
    let count = params.block_count();
    let mut blocks: Vec<Block> = Vec::with_capacity(count.max(ALLOCATED_KIB));
    blocks.resize(count, Block::default());
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut out = vec![0; length];
    argon
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut out, blocks.as_mut_slice())
        .ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_verifies_and_another_password_does_not() {
        let hash = Cost::NONE.hash_blocking("correct horse");
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        let stored = Argon2id::parse(&hash).unwrap();
        assert!(stored.verify_blocking("correct horse"));
        assert!(!stored.verify_blocking("correct horsf"));
        assert_ne!(hash, Cost::NONE.hash_blocking("correct horse"));
        let nobody = Argon2id::parse(&Cost::NONE.of_nobody()).unwrap();
        assert!(!nobody.verify_blocking(""));
    }

    /// By the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32` and with `-p 4`,
    /// as its own test vectors have them.
    #[test]
    fn hashes_of_the_reference_implementation_are_understood() {
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(Argon2id::parse(hash).unwrap().verify_blocking("password"));
        assert!(!Argon2id::parse(hash).unwrap().verify_blocking("passwore"));
    }

    #[test]
    fn what_asks_for_too_much_is_no_hash() {
        let salted = |costs: &str| {
            format!(
                "$argon2id$v=19${costs}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
            )
        };
        assert!(Argon2id::parse(&salted("m=65536,t=2,p=1")).is_some());
        for costs in [
            "m=4294967295,t=1,p=1",
            "m=65537,t=1,p=1",
            "m=65536,t=5,p=1",
            "m=8,t=4294967295,p=1",
            "m=8,t=0,p=1",
            "m=1,t=1,p=1",
            "m=64,t=1,p=17",
            "m=64,t=1",
            "m=64,t=1,p=1,x=1",
            "",
        ] {
            assert!(Argon2id::parse(&salted(costs)).is_none(), "{costs}");
        }
        for text in [
            "$argon2id$v=16$m=64,t=1,p=1$c29tZXNhbHQ$x",
            "$argon2id$",
            "",
        ] {
            assert!(Argon2id::parse(text).is_none(), "{text}");
        }
    }
}
