//! Heap-backed packet buffers.

/// A packet buffer on the heap.
#[derive(Debug)]
pub struct HeapBuf;
/// A bounded source of [`HeapBuf`]s.
#[derive(Debug)]
pub struct HeapPool;
