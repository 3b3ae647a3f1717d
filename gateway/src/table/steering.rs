//! tmp
use crate::id::WorkerId; use super::session::Tuple;
/// t
pub struct Steering; impl Steering{ /// t
 pub fn owner(&self,_t:Tuple,_p:u8)->WorkerId{WorkerId(0)} }
