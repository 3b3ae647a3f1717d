/* What capsule 0.1.5 uses of DPDK, and its names for what are static inline functions or macros there. */
#include <stddef.h>

#include <numa.h>
#include <rte_config.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

/* Where the fields of an mbuf are that capsule reads and writes: lib.rs has a structure with them. */
enum capsule_mbuf_layout {
	MBUF_SIZE = sizeof(struct rte_mbuf),
	MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	MBUF_POOL = offsetof(struct rte_mbuf, pool),
};

/* rte_eal_init, with the names that options have had since 20.11. */
int capsule_eal_init(int argc, char **argv);
int _rte_errno(void);
struct rte_mbuf *_rte_pktmbuf_alloc(struct rte_mempool *pool);
void _rte_pktmbuf_free(struct rte_mbuf *mbuf);
int _rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count);
void _rte_mempool_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned count);
uint16_t _rte_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t _rte_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
