/* What bindgen reads: DPDK's headers and a few shims where a macro, a thread-local or a bit-field that
 * differs between releases would otherwise have to be spelt out in Rust. */
#include <stddef.h>
#include <stdio.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <rte_dev.h>
#include <rte_lcore.h>
#include <rte_launch.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>

/* Where the fields of an mbuf are, for the wrapper crate's own view of it: bindgen's name for a field depends
 * on the anonymous unions around it, which change from release to release; the layout doesn't. */
enum shim_mbuf_layout {
	SHIM_MBUF_SIZE = sizeof(struct rte_mbuf),
	SHIM_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	SHIM_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	SHIM_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	SHIM_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	SHIM_MBUF_PORT = offsetof(struct rte_mbuf, port),
	SHIM_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	SHIM_MBUF_PACKET_TYPE = offsetof(struct rte_mbuf, packet_type),
	SHIM_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	SHIM_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	SHIM_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	SHIM_MBUF_HASH_RSS = offsetof(struct rte_mbuf, hash.rss),
	SHIM_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	SHIM_MBUF_POOL = offsetof(struct rte_mbuf, pool),
	SHIM_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	SHIM_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
	SHIM_MBUF_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS,
	SHIM_MBUF_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS,
	SHIM_MBUF_L4_LEN_SHIFT = RTE_MBUF_L4_LEN_OFS,
};

/* The calling thread's rte_errno. */
static inline int shim_errno(void)
{
	return rte_errno;
}

/* Has what C code prints on stdout go elsewhere, from now on: EAL prints its usage text there, some drivers
 * their complaints. To stderr, or with `all` to `stream`, and then what it prints on stderr, too. */
static inline void shim_print_to(FILE *stream, int all)
{
	fflush(stdout);
	setvbuf(stream, NULL, _IOLBF, BUFSIZ);
	stdout = all ? stream : stderr;
	if (all)
		stderr = stream;
}

/* The link's state: speed in Mb/s (UINT32_MAX if unknown), 1 if up. */
static inline int shim_link(uint16_t port, uint32_t *speed, int *up, int *full_duplex)
{
	struct rte_eth_link link;
	int ret;

	memset(&link, 0, sizeof(link));
	ret = rte_eth_link_get_nowait(port, &link);
	*speed = link.link_speed;
	*up = link.link_status == RTE_ETH_LINK_UP;
	*full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return ret;
}
