//! A list of numbers that nearly always has three at most: those lie in it, more on the heap.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Deref;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Few(Place);

#[derive(Clone, Debug)]
enum Place {
    Here {
        len: u8,
        items: [u32; 3],
    },
    #[expect(clippy::box_collection, reason = "16 bytes less in every connection, for rare use")]
    Heap(Box<Vec<u32>>),
}

const _: () = assert!(size_of::<Few>() <= 16);

impl Few {
    pub(crate) const fn new() -> Self {
        Self(Place::Here { len: 0, items: [0; 3] })
    }

    pub(crate) fn push(&mut self, item: u32) {
        match &mut self.0 {
            Place::Heap(list) => list.push(item),
            Place::Here { len, items } => match items.get_mut(usize::from(*len)) {
                Some(free) => {
                    *free = item;
                    *len += 1;
                }
                None => {
                    let mut list = items.to_vec();
                    list.push(item);
                    self.0 = Place::Heap(Box::new(list));
                }
            },
        }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&u32) -> bool) {
        match &mut self.0 {
            Place::Heap(list) => list.retain(keep),
            Place::Here { len, items } => {
                let (before, mut kept) = (*items, 0);
                for item in before.iter().take(usize::from(*len)).filter(|item| keep(item)) {
                    if let Some(place) = items.get_mut(usize::from(kept)) {
                        *place = *item;
                        kept += 1;
                    }
                }
                *len = kept;
            }
        }
    }
}

impl Deref for Few {
    type Target = [u32];

    #[inline]
    fn deref(&self) -> &[u32] {
        match &self.0 {
            Place::Heap(list) => list,
            Place::Here { len, items } => items.get(..usize::from(*len)).unwrap_or(&[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_list(steps in prop::collection::vec((any::<bool>(), 0..8_u32), 0..64)) {
            let (mut few, mut model) = (Few::new(), Vec::new());
            for (push, item) in steps {
                if push {
                    few.push(item);
                    model.push(item);
                } else {
                    few.retain(|other| *other != item);
                    model.retain(|other| *other != item);
                }
                prop_assert_eq!(&*few, model.as_slice());
            }
        }
    }
}
