//! Containers sized at start-up: memory is reserved by the constructor, and a full container answers
//! `None` or `false` instead of growing. Positions are `u32` indices so that links cost four bytes.

pub mod bucket;
pub mod list;
pub(crate) mod on_demand;
pub mod range_set;
pub(crate) mod short_list;
pub mod slab;
pub(crate) mod tag_table;
pub mod wheel;
