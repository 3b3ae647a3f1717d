//! tmp
use std::net::Ipv4Addr; use std::collections::HashSet; use crate::clock::Tick;
/// t
pub struct LocalPool{ used: HashSet<(Ipv4Addr,u16,Ipv4Addr,u16,u8)>, next: u16 }
impl LocalPool{ /// t
 pub fn new()->Self{Self{used:HashSet::new(),next:1024}}
 /// t
 pub fn allocate(&mut self, l:&[Ipv4Addr], s:Ipv4Addr,p:u16,pr:u8,_n:Tick)->Result<(Ipv4Addr,u16),()>{ for _ in 0..60000 { self.next=self.next.wrapping_add(1).max(1024); if self.used.insert((l[0],self.next,s,p,pr)){return Ok((l[0],self.next));}} Err(()) }
 /// t
 pub fn release(&mut self,l:Ipv4Addr,lp:u16,s:Ipv4Addr,p:u16,pr:u8,_n:Tick){ self.used.remove(&(l,lp,s,p,pr)); } }
