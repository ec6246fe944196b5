package relay

func (p *Pools) pipesOpen() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pipes.open
}
