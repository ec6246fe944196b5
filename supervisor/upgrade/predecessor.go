package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Predecessor is the other end, as a successor has it.
type Predecessor struct {
	Hello   Hello
	channel *channel
	asked   questions
}

// State is a part of a table: Entries is a JSON list.
type State struct {
	Table   string          `json:"table"`
	Entries json.RawMessage `json:"entries"`
}

// Fail tells the predecessor why there will be no upgrade. It goes on.
func (p *Predecessor) Fail(why error) {
	_ = p.channel.send(kindFailed, why.Error()) // it sees our end otherwise
	p.channel.close()
}

// AwaitTurn says that everything is ready, with the places of the sockets that
// were taken over, and waits until the predecessor has stopped accepting. Until
// then it hears what that has counted. ErrGone is a predecessor that ended without a
// word, which one that changes its mind says.
func (p *Predecessor) AwaitTurn(ctx context.Context, taken []int, h Heard) (Turn, error) {
	var turn Turn
	// One that has gone may have said why before: that is read, too.
	if err := p.channel.send(kindReady, taken); err != nil && !errors.Is(err, ErrGone) {
		return turn, err
	}
	err := p.channel.expect(ctx, kindYours, &turn, func(m message) error { return p.hear(m, h) })
	if err != nil && !errors.Is(err, ErrGone) {
		err = fmt.Errorf("the predecessor, process %d, goes on by itself: %w", p.Hello.PID, err)
	}
	return turn, p.lost(err)
}

// Serving says that this process accepts from here on.
func (p *Predecessor) Serving() error { return p.lost(p.channel.send(kindServing, nil)) }

func (p *Predecessor) lost(err error) error {
	if errors.Is(err, ErrGone) {
		return fmt.Errorf("the predecessor, process %d, has ended before it handed over: %w", p.Hello.PID, err)
	}
	return err
}

// Heard is what another generation tells while a predecessor drains.
type Heard struct {
	State  func(State) error
	Report func(json.RawMessage) error
	Share  func(json.RawMessage) error
	Events func(json.RawMessage) error // nil: there are none
}

// Listen hears what the predecessor still counts, until its end, whose error is
// ErrGone, or until ctx ends; then another process can go on listening.
func (p *Predecessor) Listen(ctx context.Context, h Heard) error {
	for {
		m, err := p.channel.receive(ctx)
		if err != nil {
			p.asked.fail(err)
			return err
		}
		if err := p.hear(m, h); err != nil {
			return err
		}
	}
}

func (p *Predecessor) hear(m message, h Heard) error {
	if m.Kind == kindAnswer {
		return p.asked.answered(m.Body)
	}
	return h.hear(m)
}

// hear takes what both sides may tell. Other kinds are of a version that says
// more.
func (h Heard) hear(m message) error {
	switch m.Kind {
	case kindState:
		return stateOf(m, h.State)
	case kindReport:
		return h.Report(m.Body)
	case kindShare:
		return h.Share(m.Body)
	case kindEvents:
		if h.Events == nil {
			return nil
		}
		return h.Events(m.Body)
	default:
		return nil
	}
}

func stateOf(m message, take func(State) error) error {
	if m.Kind != kindState {
		return nil
	}
	var s State
	if err := json.Unmarshal(m.Body, &s); err != nil {
		return err
	}
	return take(s)
}

// Tell passes on what counts in all.
func (p *Predecessor) Tell(table string, entries any) error {
	_, err := p.channel.tell(table, entries)
	return err
}

// Report tells what connections of other processes than the predecessor hold.
func (p *Predecessor) Report(r any) error { return p.channel.send(kindReport, r) }

// Share tells what connections of other processes want of users' bandwidths.
func (p *Predecessor) Share(list any) error { return p.channel.send(kindShare, list) }

// Ask asks a question, and gives each part of the answer to take. Listen has to
// run meanwhile.
func (p *Predecessor) Ask(ctx context.Context, what string, body any, take func(json.RawMessage) error) error {
	return p.asked.ask(ctx, p.channel, what, body, take)
}

// Reload has it judge its connections by the settings, and open its log files again,
// which may have been rotated.
func (p *Predecessor) Reload(s Settings) error {
	err := p.channel.send(kindReload, s)
	if err != nil && !errors.Is(err, ErrGone) { // whose last words are still to be heard
		p.channel.close() // half of it may have been sent
	}
	return err
}

// SettingsOf reads Settings; a message without a body has none.
func SettingsOf(body json.RawMessage) (s Settings, err error) {
	if len(body) > 0 {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

// Rotate has it open its log files again, and nothing else.
func (p *Predecessor) Rotate() error { return p.channel.send(kindRotate, nil) }

// Stop has it give what is left the time of a stop, and end.
func (p *Predecessor) Stop() error { return p.channel.send(kindStop, nil) }

// Passing is the channel as a descriptor for the next successor; ErrGone where it
// is closed.
func (p *Predecessor) Passing() (Passing, error) {
	fd, err := p.channel.descriptor()
	return Passing{Socket: Socket{Role: RolePredecessor, Name: strconv.Itoa(p.Hello.PID)}, FD: fd}, gone(err)
}

// Close lets go of the channel.
func (p *Predecessor) Close() { p.channel.close() }

// batch is how many entries of a table travel in one message: whoever reads
// takes them one batch at a time.
const batch = 256

// tell sends a table's entries, which marshal to a JSON list, and says how many
// they are.
func (c *channel) tell(table string, entries any) (int, error) {
	raw, err := json.Marshal(entries)
	if err != nil {
		return 0, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return 0, err
	}
	for all := range slices.Chunk(list, batch) {
		part, err := json.Marshal(all)
		if err != nil {
			return 0, err
		}
		if err := c.send(kindState, State{Table: table, Entries: part}); err != nil {
			return 0, err
		}
	}
	return len(list), nil
}
