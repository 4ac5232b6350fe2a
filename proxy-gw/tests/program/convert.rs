//! Convert (RFC 8803) with the Linux kernel as client, in a namespace of the gateway's: its MPTCP and
//! its TCP put the message into their SYN, or send it behind the handshake.

use crate::support::Setup;

/// Usage: protocol, `syn` or `later`, message in hex. Prints what came, in hex.
const CLIENT: &str = r#"
import socket, sys
protocol, how, message = int(sys.argv[1]), sys.argv[2], bytes.fromhex(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
s.settimeout(30)
at = ("10.1.0.1", 1234)
if how == "syn":
    s.sendto(message, 0x20000000, at)
else:
    s.connect(at)
    s.sendall(message)
heard = b""
try:
    while part := s.recv(65536):
        heard += part
except ConnectionResetError:
    heard += b"RESET"
print(heard.hex())
"#;

/// Serves everybody on port 8000 with MPTCP, with a line back for a line, then the end.
const ORIGIN: &str = r#"
import socket, threading
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.bind(("10.9.0.2", 8000))
s.listen(16)
print("Serving", flush=True)
def serve(c):
    line = b""
    while not line.endswith(b"\n"):
        line += c.recv(1000)
    c.sendall(line * 20000)
    c.close()
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,)).start()
"#;

const TCP: u16 = 6;
const MPTCP: u16 = 262;

/// A bed with an origin and the program that clients run.
struct Bed {
    bed: crate::support::Bed,
    client: String,
}

impl Bed {
    fn start(setup: Setup) -> Option<Self> {
        // Clients may put data into a SYN without a cookie of Fast Open.
        let mut bed = setup.commands(&["sysctl -q -w net.ipv4.tcp_fastopen=5"]).start()?;
        let origin = bed.scratch.file("origin.py", ORIGIN);
        bed.serve(&format!("python3 -u {origin}"), "Serving");
        let client = bed.scratch.file("client.py", CLIENT);
        Some(Self { bed, client })
    }

    fn ask(&self, protocol: u16, how: &str, message: &[u8]) -> Vec<u8> {
        let line = format!("python3 {} {protocol} {how} {}", self.client, hex(message));
        unhex(self.bed.said(&line).trim())
    }

    fn counter(&self, name: &str) -> u64 {
        self.bed.metric(name)
    }

    /// Nothing holds the end up: every session is over.
    fn finish(self) {
        self.bed.finish();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("hex"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
}

fn message(tlvs: &[u8]) -> Vec<u8> {
    let words = u8::try_from(1 + tlvs.len() / 4).expect("short");
    [&[1, words, 0x22, 0x63], tlvs].concat()
}

/// A Connect TLV for a port of the origin's host.
fn connect(port: u16, options: &[u8]) -> Vec<u8> {
    connect_to(2, port, options)
}

/// One for a port of a host of its network.
fn connect_to(host: u8, port: u16, options: &[u8]) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let words = u8::try_from(5 + options.len() / 4).expect("short");
    let mapped = [&[0; 10][..], &[0xff, 0xff, 10, 9, 0, host]].concat();
    [&[10, words, high, low][..], &mapped, options].concat()
}

#[test]
fn linux_puts_its_message_into_the_syn() {
    let Some(bed) = Bed::start(Setup::tun("convert")) else { return };
    let answer = b"hello\n".repeat(20_000);
    let mut in_syn = 0;
    for protocol in [TCP, MPTCP] {
        for how in ["syn", "later"] {
            let text = [message(&connect(8000, &[])), b"hello\n".to_vec()].concat();
            let heard = bed.ask(protocol, how, &text);
            let (header, body) = heard.split_at(4);
            assert_eq!(header, [1, 1, 0x22, 0x63], "{protocol} {how}");
            assert!(body == answer, "{protocol} {how}: {} octets", body.len());
            in_syn += u64::from(how == "syn");
            assert_eq!(bed.counter("plait_requests_in_syn"), in_syn, "{protocol} {how}");
        }
    }
    // Two came with MPTCP, and stayed so.
    assert_eq!(bed.counter("plait_mp_capable_syn_rx"), 2);
    assert_eq!(bed.counter("plait_mp_capable_ack_rx"), 2);
    bed.finish();
}

#[test]
fn linux_hears_what_its_server_answered() {
    let Some(bed) = Bed::start(Setup::tun("convert-options")) else { return };
    for (options, has_mptcp) in [(&[30, 2, 0, 0][..], true), (&[4, 2, 8, 2], false)] {
        let text = [message(&connect(8000, options)), b"x\n".to_vec()].concat();
        let heard = bed.ask(MPTCP, "syn", &text);
        let [1, _, 0x22, 0x63, 20, words, 0, 0, rest @ ..] = heard.as_slice() else {
            panic!("{:?}", &heard[..heard.len().min(80)]);
        };
        let (server, body) = rest.split_at(usize::from(*words) * 4 - 4);
        assert_eq!(body, b"x\n".repeat(20_000), "{options:?}");
        let kinds = kinds(server);
        assert!(kinds.contains(&2) && kinds.contains(&4), "{server:?}");
        assert_eq!(kinds.contains(&30), has_mptcp, "{server:?}");
    }
    let heard = bed.ask(MPTCP, "syn", &message(&[1, 1, 0, 0]));
    assert_eq!(heard, message(&[21, 2, 0, 0, 4, 8, 30, 34]));
    bed.finish();
}

/// Kinds of the options in a header.
fn kinds(mut options: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [kind, behind @ ..] = options {
        kinds.push(*kind);
        let len = if *kind < 2 { 1 } else { usize::from(behind[0]) };
        options = &options[len..];
    }
    kinds
}

#[test]
fn linux_hears_of_errors_before_the_end() {
    let Some(bed) = Bed::start(Setup::tun("convert-errors").set("convert.cookie='require'")) else {
        return;
    };
    let heard = bed.ask(MPTCP, "syn", &message(&connect(8000, &[])));
    let [1, 6, 0x22, 0x63, 30, 5, 3, 0, cookie @ ..] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    let with = |tlv: Vec<u8>| message(&[&[22, 5, 0, 0], cookie, &tlv].concat());
    for (protocol, how) in [(MPTCP, "syn"), (MPTCP, "later"), (TCP, "syn"), (TCP, "later")] {
        // Nobody listens on 9.
        let heard = bed.ask(protocol, how, &with(connect(9, &[])));
        assert_eq!(heard, message(&[30, 1, 96, 0]), "{protocol} {how}");
        let heard = bed.ask(protocol, how, &with(connect(8000, &[29, 2, 0, 0])));
        assert_eq!(heard, message(&[30, 1, 33, 29]), "{protocol} {how}");
        let text = [with(connect(8000, &[])), b"y\n".to_vec()].concat();
        assert_eq!(bed.ask(protocol, how, &text).len(), 4 + 40_000, "{protocol} {how}");
    }
    bed.finish();
}

/// Nobody has 10.9.0.77. Linux repeats its SYN after a second, without the text, and takes a SYN/ACK
/// that acknowledges it. It never shows its MPTCP key then, and goes on with TCP.
#[test]
fn linux_waits_for_a_destination_that_does_not_answer() {
    let Some(bed) = Bed::start(Setup::tun("convert-slow").set("timeouts.connect_s=2")) else {
        return;
    };
    let text = message(&connect_to(77, 80, &[]));
    for (n, protocol) in [(1, TCP), (2, MPTCP)] {
        assert_eq!(bed.ask(protocol, "syn", &text), message(&[30, 1, 65, 0]), "{protocol}");
        assert_eq!(bed.counter("plait_requests_in_syn"), n);
        assert_eq!(bed.counter("plait_retrans_segs"), n, "the exit's SYN, once each");
        let fell_back = u64::from(protocol == MPTCP);
        assert_eq!(bed.counter("plait_mp_capable_fallback_ack"), fell_back);
    }
    bed.finish();
}
