//! A list of numbers, nearly always of a few, which lie in it: no memory beside it, and no further line to be read.
//!
//! Invariant: a list that was long and is not any more lies in itself again.

use alloc::vec::Vec;
use core::ops::Deref;

/// As many as fit beside a length into what a `Vec` takes.
const FEW: usize = 3;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) enum ShortList {
    Few { len: u8, numbers: [u32; FEW] },
    Many(Vec<u32>),
}

const _: () = assert!(size_of::<ShortList>() == size_of::<Vec<u32>>());

impl ShortList {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self::Few { len: 0, numbers: [0; FEW] }
    }

    /// Appends `number`.
    pub(crate) fn push(&mut self, number: u32) {
        match self {
            Self::Few { len, numbers } => {
                if let Some(free) = numbers.get_mut(usize::from(*len)) {
                    *free = number;
                    *len += 1;
                    return;
                }
                let mut many = Vec::with_capacity(2 * FEW);
                many.extend_from_slice(numbers);
                many.push(number);
                *self = Self::Many(many);
            }
            Self::Many(many) => many.push(number),
        }
    }

    /// Removes those that `keep` does not want.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&u32) -> bool) {
        *self = self.iter().copied().filter(|number| keep(number)).collect();
    }
}

impl Default for ShortList {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<u32> for ShortList {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut list = Self::new();
        for number in numbers {
            list.push(number);
        }
        list
    }
}

impl Deref for ShortList {
    type Target = [u32];

    #[inline]
    fn deref(&self) -> &[u32] {
        match self {
            Self::Few { len, numbers } => numbers.get(..usize::from(*len)).unwrap_or(numbers),
            Self::Many(many) => many,
        }
    }
}

/// The numbers of a [`ShortList`].
#[derive(Debug)]
pub(crate) struct Numbers {
    list: ShortList,
    at: usize,
}

impl Iterator for Numbers {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let number = *self.list.get(self.at)?;
        self.at += 1;
        Some(number)
    }
}

impl IntoIterator for ShortList {
    type Item = u32;
    type IntoIter = Numbers;

    fn into_iter(self) -> Numbers {
        Numbers { list: self, at: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_vec(ops in prop::collection::vec((0..4u8, 0..8u32), 0..60)) {
            let (mut list, mut model) = (ShortList::new(), Vec::new());
            for (op, number) in ops {
                if op == 0 {
                    list.retain(|other| *other != number);
                    model.retain(|other| *other != number);
                } else {
                    list.push(number);
                    model.push(number);
                }
                prop_assert_eq!(&*list, model.as_slice());
                prop_assert_eq!(list.clone().into_iter().collect::<Vec<_>>(), model.clone());
                if op == 0 && list.len() <= FEW {
                    prop_assert!(matches!(list, ShortList::Few { .. }), "it lies in itself");
                }
            }
        }
    }
}
