//! A host whose packet memory runs short: received text is refused before it is acknowledged, everything
//! that keeps no memory still gets through, and so does what a reader waits for.

mod harness;
mod holes;
mod shortage;
