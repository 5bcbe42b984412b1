//! Images and recipes from elsewhere, and the data of whole services, by the program as its users run it;
//! on the embedded store and on real Ceph.

#[path = "../support/mod.rs"]
mod support;

mod archives;
mod bad_input;
mod incumbent;
mod interrupted;
mod recipes;
mod recovery;
mod run;

/// The same test on every kind of store.
macro_rules! on_both_stores {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::support::stand::Objects::Embedded).await;
            })*
        }
        mod ceph {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::support::stand::Objects::Ceph).await;
            })*
        }
    };
}
pub(crate) use on_both_stores;
