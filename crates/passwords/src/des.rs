//! The old `crypt(3)` of Unix: 25 rounds of DES with a salt of two characters.
//!
//! It protects nothing by today's measure. `stratus-hash-password` prints it because StratusLab's
//! `login-pswd.properties` takes it, and such files are read; Stratus itself hashes passwords with argon2id.
//! Tables: FIPS 46-3. Bits are kept one a byte, as the standard numbers them: clarity before speed.

const INITIAL: [usize; 64] = [
    58, 50, 42, 34, 26, 18, 10, 2, 60, 52, 44, 36, 28, 20, 12, 4, 62, 54, 46, 38, 30, 22, 14, 6,
    64, 56, 48, 40, 32, 24, 16, 8, 57, 49, 41, 33, 25, 17, 9, 1, 59, 51, 43, 35, 27, 19, 11, 3, 61,
    53, 45, 37, 29, 21, 13, 5, 63, 55, 47, 39, 31, 23, 15, 7,
];
const FINAL: [usize; 64] = [
    40, 8, 48, 16, 56, 24, 64, 32, 39, 7, 47, 15, 55, 23, 63, 31, 38, 6, 46, 14, 54, 22, 62, 30,
    37, 5, 45, 13, 53, 21, 61, 29, 36, 4, 44, 12, 52, 20, 60, 28, 35, 3, 43, 11, 51, 19, 59, 27,
    34, 2, 42, 10, 50, 18, 58, 26, 33, 1, 41, 9, 49, 17, 57, 25,
];
const EXPANSION: [usize; 48] = [
    32, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9, 8, 9, 10, 11, 12, 13, 12, 13, 14, 15, 16, 17, 16, 17, 18,
    19, 20, 21, 20, 21, 22, 23, 24, 25, 24, 25, 26, 27, 28, 29, 28, 29, 30, 31, 32, 1,
];
const PERMUTATION: [usize; 32] = [
    16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10, 2, 8, 24, 14, 32, 27, 3, 9, 19,
    13, 30, 6, 22, 11, 4, 25,
];
const KEY_CHOICE_1: [usize; 56] = [
    57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60,
    52, 44, 36, 63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29,
    21, 13, 5, 28, 20, 12, 4,
];
const KEY_CHOICE_2: [usize; 48] = [
    14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2, 41, 52,
    31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
];
const SHIFTS: [usize; 16] = [1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1];
const SUBSTITUTIONS: [[u8; 64]; 8] = [
    [
        14, 4, 13, 1, 2, 15, 11, 8, 3, 10, 6, 12, 5, 9, 0, 7, 0, 15, 7, 4, 14, 2, 13, 1, 10, 6, 12,
        11, 9, 5, 3, 8, 4, 1, 14, 8, 13, 6, 2, 11, 15, 12, 9, 7, 3, 10, 5, 0, 15, 12, 8, 2, 4, 9,
        1, 7, 5, 11, 3, 14, 10, 0, 6, 13,
    ],
    [
        15, 1, 8, 14, 6, 11, 3, 4, 9, 7, 2, 13, 12, 0, 5, 10, 3, 13, 4, 7, 15, 2, 8, 14, 12, 0, 1,
        10, 6, 9, 11, 5, 0, 14, 7, 11, 10, 4, 13, 1, 5, 8, 12, 6, 9, 3, 2, 15, 13, 8, 10, 1, 3, 15,
        4, 2, 11, 6, 7, 12, 0, 5, 14, 9,
    ],
    [
        10, 0, 9, 14, 6, 3, 15, 5, 1, 13, 12, 7, 11, 4, 2, 8, 13, 7, 0, 9, 3, 4, 6, 10, 2, 8, 5,
        14, 12, 11, 15, 1, 13, 6, 4, 9, 8, 15, 3, 0, 11, 1, 2, 12, 5, 10, 14, 7, 1, 10, 13, 0, 6,
        9, 8, 7, 4, 15, 14, 3, 11, 5, 2, 12,
    ],
    [
        7, 13, 14, 3, 0, 6, 9, 10, 1, 2, 8, 5, 11, 12, 4, 15, 13, 8, 11, 5, 6, 15, 0, 3, 4, 7, 2,
        12, 1, 10, 14, 9, 10, 6, 9, 0, 12, 11, 7, 13, 15, 1, 3, 14, 5, 2, 8, 4, 3, 15, 0, 6, 10, 1,
        13, 8, 9, 4, 5, 11, 12, 7, 2, 14,
    ],
    [
        2, 12, 4, 1, 7, 10, 11, 6, 8, 5, 3, 15, 13, 0, 14, 9, 14, 11, 2, 12, 4, 7, 13, 1, 5, 0, 15,
        10, 3, 9, 8, 6, 4, 2, 1, 11, 10, 13, 7, 8, 15, 9, 12, 5, 6, 3, 0, 14, 11, 8, 12, 7, 1, 14,
        2, 13, 6, 15, 0, 9, 10, 4, 5, 3,
    ],
    [
        12, 1, 10, 15, 9, 2, 6, 8, 0, 13, 3, 4, 14, 7, 5, 11, 10, 15, 4, 2, 7, 12, 9, 5, 6, 1, 13,
        14, 0, 11, 3, 8, 9, 14, 15, 5, 2, 8, 12, 3, 7, 0, 4, 10, 1, 13, 11, 6, 4, 3, 2, 12, 9, 5,
        15, 10, 11, 14, 1, 7, 6, 0, 8, 13,
    ],
    [
        4, 11, 2, 14, 15, 0, 8, 13, 3, 12, 9, 7, 5, 10, 6, 1, 13, 0, 11, 7, 4, 9, 1, 10, 14, 3, 5,
        12, 2, 15, 8, 6, 1, 4, 11, 13, 12, 3, 7, 14, 10, 15, 6, 8, 0, 5, 9, 2, 6, 11, 13, 8, 1, 4,
        10, 7, 9, 5, 0, 15, 14, 2, 3, 12,
    ],
    [
        13, 2, 8, 4, 6, 15, 11, 1, 10, 9, 3, 14, 5, 0, 12, 7, 1, 15, 13, 8, 10, 3, 7, 4, 12, 5, 6,
        11, 0, 14, 9, 2, 7, 11, 4, 1, 9, 12, 14, 2, 0, 6, 10, 13, 15, 3, 5, 8, 2, 1, 14, 7, 4, 10,
        8, 13, 15, 12, 9, 0, 3, 5, 6, 11,
    ],
];
const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ROUNDS: usize = 25;

/// The hash of `password` (its first eight bytes count) with a salt of two characters of `[./0-9A-Za-z]`.
///
/// Any other byte of the salt counts as `.`, so every input has a result.
#[must_use]
pub fn des_crypt(password: &[u8], salt: [u8; 2]) -> String {
    let salt_values = salt.map(|character| {
        ALPHABET
            .iter()
            .position(|letter| *letter == character)
            .unwrap_or(0)
    });
    let mut key = [0_u8; 64];
    for (bits, byte) in key
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .zip(password.iter().take_while(|byte| **byte != 0))
    {
        // The upper seven bits of every key byte; the lowest is parity.
        for (index, bit) in bits.iter_mut().take(7).enumerate() {
            *bit = (byte >> (6 - index)) & 1;
        }
    }
    let round_keys = round_keys(&key);
    // A bit of the salt that is set swaps the two halves of the expansion at that place.
    let mut expansion = EXPANSION;
    for index in 0..12 {
        if (salt_values[index / 6] >> (index % 6)) & 1 == 1 {
            expansion.swap(index, index + 24);
        }
    }
    let mut block = [0_u8; 64];
    for _ in 0..ROUNDS {
        block = encrypt(&block, &round_keys, &expansion);
    }
    let mut text: String = salt_values
        .iter()
        .map(|value| char::from(ALPHABET[*value]))
        .collect();
    let mut bits = block.to_vec();
    bits.extend([0, 0]);
    for group in bits.as_chunks::<6>().0 {
        let value = group
            .iter()
            .fold(0, |value, bit| value << 1 | usize::from(*bit));
        text.push(char::from(ALPHABET[value]));
    }
    text
}

fn choose<const N: usize>(bits: &[u8], table: &[usize; N]) -> [u8; N] {
    table.map(|place| bits[place - 1])
}

fn round_keys(key: &[u8; 64]) -> [[u8; 48]; 16] {
    let mut halves = choose(key, &KEY_CHOICE_1);
    SHIFTS.map(|shift| {
        let (left, right) = halves.split_at_mut(28);
        left.rotate_left(shift);
        right.rotate_left(shift);
        choose(&halves, &KEY_CHOICE_2)
    })
}

fn encrypt(block: &[u8; 64], round_keys: &[[u8; 48]; 16], expansion: &[usize; 48]) -> [u8; 64] {
    let permuted = choose(block, &INITIAL);
    let (mut left, mut right) = ([0_u8; 32], [0_u8; 32]);
    left.copy_from_slice(&permuted[..32]);
    right.copy_from_slice(&permuted[32..]);
    for round_key in round_keys {
        let mut mixed = choose(&right, expansion);
        mixed
            .iter_mut()
            .zip(round_key)
            .for_each(|(bit, key_bit)| *bit ^= key_bit);
        let mut substituted = [0_u8; 32];
        for ((input, output), table) in mixed
            .as_chunks::<6>()
            .0
            .iter()
            .zip(substituted.as_chunks_mut::<4>().0)
            .zip(&SUBSTITUTIONS)
        {
            let [row_high, a, b, c, d, row_low] = input.map(usize::from);
            let value = table[(row_high << 1 | row_low) << 4 | a << 3 | b << 2 | c << 1 | d];
            output
                .iter_mut()
                .enumerate()
                .for_each(|(index, bit)| *bit = (value >> (3 - index)) & 1);
        }
        let mut next = choose(&substituted, &PERMUTATION);
        next.iter_mut()
            .zip(&left)
            .for_each(|(bit, left_bit)| *bit ^= left_bit);
        left = right;
        right = next;
    }
    let mut swapped = [0_u8; 64];
    swapped[..32].copy_from_slice(&right);
    swapped[32..].copy_from_slice(&left);
    choose(&swapped, &FINAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        assert_eq!(des_crypt(b"secret", *b"jo"), "jo9SpNfPHbmRk");
        assert_eq!(des_crypt(b"", *b"ab"), "abmF1QH4PEr.E");
        assert_eq!(des_crypt(b"password", *b"zz"), "zzXUHfURnGg8I");
        assert_eq!(des_crypt(b"longer than eight", *b"./"), "./yPRzyX/WeSM");
        assert_eq!(des_crypt("ä".as_bytes(), *b"9Z"), "9ZgiC/M9r6oTM");
    }

    #[test]
    fn only_eight_bytes_count_and_every_input_has_a_result() {
        assert_eq!(
            des_crypt(b"12345678", *b"ab"),
            des_crypt(b"123456789", *b"ab")
        );
        assert_eq!(des_crypt(b"", *b"..").len(), 13);
        assert!(des_crypt("pässwörd".as_bytes(), [0xff, b'a']).starts_with(".a"));
    }
}
