//! Numbers of records kept in an order, in which one more is put quickly.

use std::cmp::Ordering;

use super::Number;

/// Numbers of one chunk at most: what is moved when one is put in.
const CHUNK: usize = 1024;

/// Numbers in an order that its user decides by comparing, always in the same way.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// In order; none of them is empty.
    chunks: Vec<Vec<Number>>,
}

impl Sorted {
    /// Puts a number in. `compare` says how another one stands to it.
    pub(super) fn insert(&mut self, number: Number, compare: impl Fn(Number) -> Ordering) {
        let at = self.chunk(&compare);
        let place = at.min(self.chunks.len().saturating_sub(1));
        let Some(chunk) = self.chunks.get_mut(place) else {
            self.chunks.push(vec![number]);
            return;
        };
        let within = chunk.partition_point(|other| compare(*other).is_lt());
        chunk.insert(within, number);
        if chunk.len() > CHUNK {
            let rest = chunk.split_off(CHUNK / 2);
            self.chunks.insert(place + 1, rest);
        }
    }

    /// Takes a number out.
    pub(super) fn remove(&mut self, number: Number, compare: impl Fn(Number) -> Ordering) {
        let place = self.chunk(&compare);
        let Some(chunk) = self.chunks.get_mut(place) else {
            return;
        };
        let within = chunk.partition_point(|other| compare(*other).is_lt());
        if chunk.get(within) == Some(&number) {
            chunk.remove(within);
        }
        if chunk.is_empty() {
            self.chunks.remove(place);
        }
    }

    /// The first chunk that ends at or behind the number.
    fn chunk(&self, compare: &impl Fn(Number) -> Ordering) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.last().is_some_and(|last| compare(*last).is_lt()))
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Number> {
        self.chunks.iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_stay_in_order_whatever_comes_and_goes(
            steps in prop::collection::vec((0..3000_u32, 0..4_u8), 0..4000)
        ) {
            let (mut sorted, mut plain) = (Sorted::default(), std::collections::BTreeSet::new());
            for (number, what) in steps {
                let compare = |other: Number| other.cmp(&number);
                if what == 0 {
                    sorted.remove(number, compare);
                    plain.remove(&number);
                } else if plain.insert(number) {
                    sorted.insert(number, compare);
                }
            }
            prop_assert!(sorted.iter().eq(plain.iter().copied()));
            prop_assert!(sorted.iter().rev().eq(plain.iter().rev().copied()));
        }
    }
}
