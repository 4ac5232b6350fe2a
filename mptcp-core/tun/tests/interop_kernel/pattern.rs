//! The application protocol both ends speak, whichever is the client: 16 octets that say how much
//! goes up and how much comes down, then both streams at once, each ended by a half-close. Every
//! octet is known beforehand and compared.

/// Length of the request in front of the upload.
pub(crate) const REQUEST_LEN: usize = 16;

/// How much a transfer moves; also its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) up: u64,
    pub(crate) down: u64,
}

impl Plan {
    pub(crate) fn request(self) -> [u8; REQUEST_LEN] {
        let mut request = [0; REQUEST_LEN];
        request[..8].copy_from_slice(&self.up.to_be_bytes());
        request[8..].copy_from_slice(&self.down.to_be_bytes());
        request
    }

    pub(crate) fn parse(request: [u8; REQUEST_LEN]) -> Self {
        let (up, down) = request.split_at(8);
        let word = |half: &[u8]| u64::from_be_bytes(half.try_into().expect("8 octets"));
        Self { up: word(up), down: word(down) }
    }
}

/// Which of the two streams of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stream {
    Up,
    Down,
}

const PERIOD: usize = 65_521;

/// A stream's octets: a period whose length is prime, so that no lost or repeated segment, window or
/// buffer lines up with it.
#[derive(Debug)]
pub(crate) struct Pattern {
    octets: Vec<u8>,
}

impl Pattern {
    pub(crate) fn new(stream: Stream) -> Self {
        let salt: u64 = if stream == Stream::Up { 0x51ed } else { 0xd0_0d };
        // Twice the period, so that any 64 KiB of it are contiguous.
        let octet = |i: usize| ((i % PERIOD) as u64 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { octets: (0..2 * PERIOD).map(|i| (octet(i) >> 56) as u8).collect() }
    }

    /// The octets from `offset` on; at least `PERIOD` of them.
    pub(crate) fn at(&self, offset: u64) -> &[u8] {
        let at = (offset % PERIOD as u64) as usize;
        &self.octets[at..]
    }

    /// Where `got`, which starts at `offset` of the stream, first differs.
    pub(crate) fn difference(&self, offset: u64, got: &[u8]) -> Option<u64> {
        let mut at = 0;
        while at < got.len() {
            let expected = self.at(offset + at as u64);
            let len = expected.len().min(got.len() - at);
            if got[at..at + len] != expected[..len] {
                let wrong = (0..len).find(|i| got[at + i] != expected[*i])?;
                return Some(offset + (at + wrong) as u64);
            }
            at += len;
        }
        None
    }
}
