//! Datagrams of clients: what is read is written back the same, and how a stream of them is cut changes
//! nothing.

use proxy_gw::config::HostName;
use proxy_gw::front_end::udp::{self, BadDatagram, Stream};
use proxy_gw::front_end::{Host, Target};

/// Takes the first byte of `data` as the kind of stream and the piece size, the rest as what a client
/// sends, in a datagram and in a stream.
pub fn datagrams(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    if let Ok(datagram) = udp::parse(bytes) {
        assert_ne!(datagram.target.port, 0);
        assert!(bytes.ends_with(datagram.data));
        if let Host::Address(ip) = datagram.target.host {
            let header = udp::header((ip, datagram.target.port).into());
            let again = [header, datagram.data.to_vec()].concat();
            assert_eq!(udp::parse(&again).as_ref(), Ok(&datagram));
        }
    }
    let name = if choice & 1 == 0 { "sp.v2.udp-over-tcp.arpa" } else { "sp.udp-over-tcp.arpa" };
    let name = HostName::new(name.as_bytes()).expect("a name");
    let target = Target { host: Host::Name(name), port: 1 };
    let stream = Stream::asked_by(&target).expect("it asks for a stream");
    let whole = run(stream.clone(), bytes, usize::MAX);
    assert_eq!(run(stream.clone(), bytes, usize::from(choice >> 1).max(1)), whole);
    assert_eq!(run(stream, bytes, 1), whole, "byte by byte");
}

/// Every datagram of `bytes`, how many had no destination, and whether the stream lost its way.
fn run(mut stream: Stream, bytes: &[u8], piece: usize) -> (Vec<(Target, Vec<u8>)>, usize, bool) {
    let (mut found, mut passed_over) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        stream.push(piece);
        loop {
            match stream.pop() {
                Ok(Some((target, data))) => {
                    assert!(!data.is_empty() && target.port != 0);
                    found.push((target, data));
                }
                Ok(None) => break,
                Err(BadDatagram::Malformed) => passed_over += 1,
                Err(_) => return (found, passed_over, true),
            }
        }
    }
    (found, passed_over, false)
}
