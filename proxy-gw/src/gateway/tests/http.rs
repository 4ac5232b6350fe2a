//! HTTP CONNECT from the request to the tunnel, and what clients hear when there is none.

use super::*;

/// A request for `authority`, with more fields.
fn request(authority: &str, fields: &str) -> Vec<u8> {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n").into()
}

/// The status of what was said since last asked.
fn status(world: &mut World, inner: SocketId) -> String {
    let text = String::from_utf8(world.heard(inner)).unwrap();
    text.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_tunnel_opens_once_the_exit_is_established_and_keeps_what_was_pipelined() {
    let mut world = World::new();
    let inner = world.client_at(8080);
    world.say(inner, &[request("10.9.0.2:443", ""), b"\x16\x03\x01 hello".to_vec()].concat());
    assert!(world.heard(inner).is_empty(), "no success before the exit is established");
    let (outer, with) = world.shard.last_exit();
    assert_eq!(with.remote.to_string(), "10.9.0.2:443");
    world.shard.establish(outer);
    world.run();
    let said = String::from_utf8(world.heard(inner)).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("\r\n\r\n"), "{said}");
    assert!(!said.to_ascii_lowercase().contains("content-length"), "{said}");
    assert_eq!(world.shard.unread(inner), 9);
    assert_eq!(world.shard.relay_of(inner), Some(outer));
}

#[test]
fn names_are_looked_up_as_those_of_socks() {
    let mut world = World::new();
    let inner = world.client_at(8080);
    world.say(inner, &request("Origin.Example:80", ""));
    let (outer, with) = world.shard.last_exit();
    assert_eq!(with.remote.to_string(), "10.9.0.2:80");
    world.shard.establish(outer);
    world.run();
    assert_eq!(status(&mut world, inner), "200");
}

#[test]
fn requests_that_are_not_served_are_answered_and_closed() {
    for (bytes, said, reason) in [
        (request("10.9.0.2", ""), "400", EndReason::BadRequest),
        (request("2130706433:80", ""), "400", EndReason::NumericName),
        (request("127.0.0.1:80", ""), "403", EndReason::Denied),
        (request("[::ffff:127.0.0.1]:80", ""), "403", EndReason::Denied),
        (request("10.1.0.1:1080", ""), "403", EndReason::Denied),
        (request("other.example:80", ""), "502", EndReason::UnknownName),
        (
            b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            "405",
            EndReason::CommandNotSupported,
        ),
        (b"\x05\x01\x00".to_vec(), "", EndReason::NotHttp),
        ([b"CONNECT ".to_vec(), vec![b'a'; 9000]].concat(), "414", EndReason::RequestTooLong),
    ] {
        let mut world = World::new();
        let inner = world.client_at(8080);
        world.say(inner, &bytes);
        assert!(world.shard.connects.is_empty(), "an exit was opened for {said}");
        assert_eq!(status(&mut world, inner), said);
        assert!(world.shard.write_shut(inner));
        world.shard.finish(inner);
        world.run();
        world.assert_ended(reason);
    }
}

#[test]
fn every_way_an_exit_can_fail_has_its_status() {
    use ConnectionError::*;
    for (error, said) in [
        (Refused, "502"),
        (ConnectTimedOut, "504"),
        (NetworkUnreachable, "502"),
        (HostUnreachable, "502"),
        (TtlExpired, "502"),
        (Internal, "500"),
    ] {
        let mut world = World::new();
        let inner = world.client_at(8080);
        world.say(inner, &request("10.9.0.2:80", ""));
        let (outer, _) = world.shard.last_exit();
        world.shard.end(outer, Some(error));
        world.run();
        assert_eq!(status(&mut world, inner), said, "{error:?}");
    }
    let mut world = World::new();
    world.shard.refuse_connect = Some(OpenError::PortsExhausted);
    let inner = world.client_at(8080);
    world.say(inner, &request("10.9.0.2:80", ""));
    assert_eq!(status(&mut world, inner), "503");
}

#[test]
fn a_password_is_asked_for_and_checked() {
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";
    let user = format!("user=[{{ name = 'Aladdin', password_hash = '{hash}' }}]");
    let world = || World::with(&[&user, "http.auth='password'"]);
    let mut without = world();
    let inner = without.client_at(8080);
    without.say(inner, &request("10.9.0.2:80", ""));
    let said = String::from_utf8(without.heard(inner)).unwrap();
    assert!(said.starts_with("HTTP/1.1 407 ") && said.contains("Basic realm="), "{said}");
    without.shard.finish(inner);
    without.run();
    without.assert_ended(EndReason::NoMethod);

    let field = "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n";
    for (correct, said) in [(true, "200"), (false, "407")] {
        let mut world = world();
        let inner = world.client_at(8080);
        world.say(inner, &request("10.9.0.2:80", field));
        let asked = world.gateway.poll_verification().unwrap();
        assert_eq!(asked.credentials.user, b"Aladdin");
        assert_eq!(asked.credentials.password.as_slice(), b"open sesame");
        let result = asked.answered(correct);
        world.gateway.handle_verified(world.now, &mut world.shard, &result);
        world.run();
        if correct {
            let (outer, _) = world.shard.last_exit();
            world.shard.establish(outer);
            world.run();
        }
        assert_eq!(status(&mut world, inner), said);
    }
}
