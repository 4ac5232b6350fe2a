//! Users by name, and what their passwords are checked against.
//!
//! Invariant: an unknown user costs as much as the costliest known one.

use super::password::PasswordHash;
use crate::config::User;
use crate::front_end::Credentials;
use crate::policies::UserId;
use std::collections::HashMap;

/// See the module. It does not change: others take its place, and who is being checked is checked by the one that
/// was there when that began.
#[derive(Debug, Default)]
pub struct Users {
    by_name: HashMap<Vec<u8>, Known>,
    /// Checked, and ignored, for unknown users: the costliest, so that no name answers faster than
    /// a made-up one.
    stand_in: Option<PasswordHash>,
}

#[derive(Debug)]
struct Known {
    id: UserId,
    hash: PasswordHash,
    /// The change that gave it this password.
    since: u64,
}

impl Users {
    /// These from now on, which is change `version`.
    #[must_use]
    pub fn changed_to<'a>(
        &self,
        users: impl Iterator<Item = (UserId, &'a User)>,
        version: u64,
    ) -> Self {
        let known = users.map(|(id, user)| {
            let name = user.name.clone().into_bytes();
            let hash = user.password_hash.clone();
            let before = self.by_name.get(&name).filter(|before| before.hash == hash);
            let since = before.map_or(version, |before| before.since);
            (name, Known { id, hash, since })
        });
        let by_name: HashMap<Vec<u8>, Known> = known.collect();
        let stand_in = by_name.values().map(|known| &known.hash).max_by_key(|hash| hash.cost());
        Self { stand_in: stand_in.cloned(), by_name }
    }

    /// The user of this name.
    #[must_use]
    pub fn id(&self, name: &[u8]) -> Option<UserId> {
        self.by_name.get(name).map(|known| known.id)
    }

    /// What tells this user's password from those before it.
    pub(super) fn since(&self, name: &[u8]) -> Option<u64> {
        self.by_name.get(name).map(|known| known.since)
    }

    /// Takes milliseconds: never on a shard's thread.
    pub(super) fn check(&self, credentials: &Credentials) -> bool {
        match (self.by_name.get(&credentials.user), &self.stand_in) {
            (Some(known), _) => known.hash.verify(&credentials.password),
            (None, Some(stand_in)) => {
                let _ = stand_in.verify(&credentials.password);
                false
            }
            (None, None) => false,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Plan;

    pub(in crate::auth) fn user(name: &str, password: &[u8]) -> User {
        let password_hash = PasswordHash::of(password).unwrap();
        User { name: name.to_owned(), password_hash, plan: Plan::default() }
    }

    pub(in crate::auth) fn users(users: &[User], former: &Users, version: u64) -> Users {
        let ids = (1..).filter_map(UserId::new);
        former.changed_to(ids.zip(users), version)
    }

    #[test]
    fn the_costliest_hash_stands_in_for_unknown_users() {
        let tail = "$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";
        let user = |name: &str, cost: &str| {
            let hash = PasswordHash::parse(&format!("$argon2id$v=19${cost}{tail}")).unwrap();
            User { name: name.to_owned(), password_hash: hash, plan: Plan::default() }
        };
        let all =
            [user("a", "m=64,t=1,p=1"), user("b", "m=64,t=3,p=1"), user("c", "m=128,t=1,p=1")];
        let known = users(&all, &Users::default(), 0);
        assert_eq!(known.stand_in.as_ref(), Some(&all[1].password_hash));
    }

    #[test]
    fn a_password_is_as_old_as_the_change_that_made_it() {
        let [mut a, b] = ["a", "b"].map(|name| user(name, b"right"));
        let first = users(&[a.clone(), b.clone()], &Users::default(), 0);
        assert_eq!(
            (first.since(b"a"), first.since(b"b"), first.since(b"c")),
            (Some(0), Some(0), None)
        );
        a.password_hash = PasswordHash::of(b"other").unwrap();
        let second = users(&[a.clone(), b.clone()], &first, 1);
        assert_eq!((second.since(b"a"), second.since(b"b")), (Some(1), Some(0)));
        let third = users(core::slice::from_ref(&b), &second, 2);
        assert_eq!((third.since(b"a"), third.id(b"a")), (None, None));
        let fourth = users(&[a, b], &third, 3);
        assert_eq!((fourth.since(b"a"), fourth.since(b"b")), (Some(3), Some(0)));
    }
}
