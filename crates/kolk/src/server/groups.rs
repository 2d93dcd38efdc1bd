//! Named sets of connections, to which one broadcast goes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use indexmap::IndexSet;
use kolk_engine::token::Key;

/// The name of a set of connections: a room, a topic, a subscription. A clone shares the text.
///
/// Groups need not be made: one is there when somebody [joins](super::Conn::join) it, and gone when the last has
/// left or closed. A name that nobody joined is that of an empty set: a broadcast to it reaches nobody.
///
/// Each loop keeps the members that live on it, so joining and leaving take a constant time and no lock, and a
/// broadcast costs one wake-up a loop.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group(Arc<str>);

impl Group {
    /// The group of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Group {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Group {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl From<&Self> for Group {
    fn from(group: &Self) -> Self {
        group.clone()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({:?})", self.name())
    }
}

/// The members of each group that live on one loop.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// No group is empty.
    members: HashMap<Group, IndexSet<Key>>,
}

impl Groups {
    /// Answers the name, whose text all members share; `None` if the connection was a member before.
    pub(super) fn join(&mut self, group: Group, key: Key) -> Option<Group> {
        let entry = self.members.entry(group);
        let group = entry.key().clone();
        entry.or_default().insert(key).then_some(group)
    }

    /// Whether the connection was a member.
    pub(super) fn leave(&mut self, group: &Group, key: Key) -> bool {
        let Some(members) = self.members.get_mut(group) else { return false };
        let was_member = members.swap_remove(&key);
        if members.is_empty() {
            self.members.remove(group);
        }
        was_member
    }

    /// Takes a connection out of all groups, where nobody knows which it has joined.
    pub(super) fn forget(&mut self, key: Key) {
        self.members.retain(|_, members| {
            members.swap_remove(&key);
            !members.is_empty()
        });
    }

    /// How many members a group has here.
    pub(super) fn len(&self, group: &Group) -> usize {
        self.members.get(group).map_or(0, IndexSet::len)
    }

    /// Whether the connection is a member.
    pub(super) fn contains(&self, group: &Group, key: Key) -> bool {
        self.members.get(group).is_some_and(|members| members.contains(&key))
    }

    /// The members of a group that live here.
    pub(super) fn members(&self, group: &Group) -> impl Iterator<Item = Key> {
        self.members.get(group).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kolk_engine::token::Generation;

    fn key(index: u32) -> Key {
        Key::new(index, Generation::FIRST)
    }

    #[test]
    fn a_group_is_there_while_it_has_members() {
        let (mut groups, room) = (Groups::default(), Group::new("room"));
        assert!(groups.join(room.clone(), key(1)).is_some() && groups.join(room.clone(), key(2)).is_some());
        assert_eq!(groups.join(room.clone(), key(2)), None, "twice is once");
        assert_eq!(groups.len(&room), 2);
        assert!(groups.leave(&room, key(1)) && !groups.leave(&room, key(1)));
        assert_eq!(groups.members(&room).collect::<Vec<_>>(), [key(2)]);
        assert!(groups.contains(&room, key(2)) && !groups.contains(&room, key(1)));
        assert!(groups.leave(&room, key(2)));
        assert!(groups.members.is_empty());
        assert_eq!(groups.len(&room), 0);
    }

    #[test]
    fn members_share_the_text_of_the_name() {
        let mut groups = Groups::default();
        let [first, second] = [1, 2].map(|index| groups.join(Group::new("room"), key(index)).expect("new"));
        assert!(Arc::ptr_eq(&first.0, &second.0));
    }
}
