//! Another configuration while sessions are there: users, names, destinations.

use super::auth::METHOD;
use super::*;

const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";

/// A configuration with these users.
fn config(users: &[&str], settings: &[&str]) -> Config {
    let users: Vec<String> = users
        .iter()
        .map(|user| {
            let (name, hash) = user.split_once(':').unwrap_or((user, "Z8A"));
            format!("{{ name = '{name}', password_hash = '{}' }}", HASH.replace("Z8A", hash))
        })
        .collect();
    let users = format!("user=[{}]", users.join(", "));
    let settings = [&["socks5.auth=password", &users][..], settings].concat();
    let settings: Vec<String> = settings.iter().map(|&text| text.to_owned()).collect();
    config::parse("test", CONFIG, &settings).unwrap()
}

fn world(config: &Config) -> World {
    let common = Arc::new(Common::new(config, &mut Rng::from_seed([3; 32])));
    World::beside(config, common)
}

impl World {
    /// As SIGHUP hands it over.
    fn take_up(&mut self, config: &Config) {
        let next = Arc::new(self.gateway.policies.with_config(config));
        self.gateway.set_policies(next);
        let now = self.now;
        while self.gateway.carry_policies(now, &mut self.shard, 1) == Progress::More {}
    }

    /// Checks as the verifier does, but for the hash: every password of a user that there is, is right.
    fn verify_by_name(&mut self) -> usize {
        let mut count = 0;
        while let Some(request) = self.gateway.poll_verification() {
            count += 1;
            let known = self.gateway.policies.credentials().id(&request.credentials.user);
            let result = request.answered(known.is_some());
            self.gateway.handle_verified(self.now, &mut self.shard, &result);
        }
        self.run();
        count
    }

    fn login(&mut self, user: &str, request: &[u8]) -> SocketId {
        let login = [&[1, user.len() as u8], user.as_bytes(), b"\x05right"].concat();
        self.client_saying(&[METHOD, &login, request].concat())
    }
}

fn by_name(name: &str) -> Vec<u8> {
    [&[5, 1, 0, 3, name.len() as u8][..], name.as_bytes(), &[0, 80]].concat()
}

/// Who is taken away is not let in again, what was remembered included; the session that is there stays, and is
/// counted as before.
#[test]
fn users_come_and_go_and_sessions_stay() {
    let mut world = world(&config(&["a", "b"], &[]));
    let inner = world.login("b", &REQUEST[3..]);
    assert_eq!(world.verify_by_name(), 1);
    let (outer, _) = world.shard.last_exit();
    world.shard.establish(outer);
    world.run();
    let b = world.gateway.policies.credentials().id(b"b").unwrap();
    world.take_up(&config(&["c"], &[]));
    assert_eq!(world.shard.relay_of(inner), Some(outer), "it stays");
    for (user, verdict) in [("b", 1), ("a", 1), ("c", 0)] {
        let client = world.login(user, &REQUEST[3..]);
        assert_eq!(world.verify_by_name(), 1, "{user}: nothing is remembered");
        assert_eq!(world.heard(client)[..4], [5, 2, 1, verdict], "{user}");
    }
    // Nobody else is in its place.
    let policies = Arc::clone(&world.gateway.policies);
    assert_ne!(policies.credentials().id(b"c"), Some(b));
    assert_eq!(policies.usage(b).unwrap().read()[0], 1);
    assert_eq!(policies.user_name(b), Some("b"));
    assert_eq!(policies.users().map(|(_, name)| name).collect::<Vec<_>>(), ["c"]);
    world.take_up(&config(&["c", "b"], &[]));
    assert_eq!(world.gateway.policies.credentials().id(b"b"), Some(b), "it is known again");
    world.shard.end(inner, None);
    world.shard.end(outer, None);
    world.run();
    assert_eq!(world.gateway.policies.usage(b).unwrap().read()[..2], [0, 1]);
}

/// A password that was right is checked again once it is another, even if the check began before.
#[test]
fn another_password_is_asked_for() {
    let mut world = world(&config(&["a"], &[]));
    let rejected = |world: &mut World, checks| {
        let client = world.login("a", &REQUEST[3..]);
        assert_eq!(world.verify_by_name(), checks);
        world.heard(client)
    };
    assert_eq!(rejected(&mut world, 1), [5, 2, 1, 0]);
    assert_eq!(rejected(&mut world, 0), [5, 2, 1, 0]);
    world.login("a", &REQUEST[3..]);
    let other = config(&["a:Z8E"], &[]);
    world.take_up(&other);
    assert_eq!(rejected(&mut world, 1), [5, 2, 1, 0]);
    world.take_up(&other);
    assert_eq!(rejected(&mut world, 0), [5, 2, 1, 0], "nothing changed");
}

#[test]
fn names_and_destinations_are_those_of_the_last_configuration() {
    let before = config(&["a"], &[]);
    let mut world = world(&before);
    let ask = |world: &mut World, request: &[u8]| {
        let client = world.login("a", request);
        world.verify_by_name();
        let connects = world.shard.connects.len();
        let heard = world.heard(client);
        (heard.get(5).copied(), connects)
    };
    assert_eq!(ask(&mut world, &by_name("new.example")), (Some(4), 0));
    let hosts = "hosts={ \"new.example\" = ['10.9.0.7'] }";
    world.take_up(&config(&["a"], &[hosts]));
    assert_eq!(ask(&mut world, &by_name("new.example")), (None, 1), "an exit is on its way");
    assert_eq!(ask(&mut world, &by_name("origin.example")), (Some(4), 1), "gone");
    world.take_up(&config(&["a"], &["egress.deny=['10.9.0.0/24']"]));
    assert_eq!(ask(&mut world, &REQUEST[3..]), (Some(2), 1));
    world.take_up(&before);
    assert_eq!(ask(&mut world, &REQUEST[3..]), (None, 2));
    // Ours are refused whatever is allowed.
    world.take_up(&config(&["a"], &["egress.allow=['10.0.0.0/8']"]));
    let own = [5, 1, 0, 1, 10, 9, 0, 1, 0, 80];
    assert_eq!(ask(&mut world, &own), (Some(2), 2));
}
