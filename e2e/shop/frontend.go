package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// forwarded names the header fields that a well-behaved service hands on.
var forwarded = []string{"traceparent", "tracestate", "x-request-id", "authorization"}

var client = &http.Client{Timeout: requestTimeout}

const (
	events         = 3
	eventPause     = 100 * time.Millisecond
	frameBytesMax  = 1 << 16
	websocketGUID  = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	opcodeClose    = 8
	opcodePing     = 9
	opcodePong     = 10
	finalFrame     = 0x80
	maskedPayload  = 0x80
	opcodeBits     = 0x0f
	lengthBits     = 0x7f
	length16       = 126
	length64       = 127
	smallFrameMax  = 125
	maskingKeySize = 4
)

func addFrontend(mux *http.ServeMux) {
	orders := env("ORDERS_URL", "http://orders:8080")
	mux.HandleFunc("POST /buy", func(w http.ResponseWriter, r *http.Request) {
		request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, orders+"/orders?item="+r.FormValue("item"), nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		for _, name := range forwarded {
			if value := r.Header.Get(name); value != "" {
				request.Header.Set(name, value)
			}
		}
		pass(w, request)
	})
	mux.HandleFunc("GET /events", serveEvents)
	mux.HandleFunc("GET /ws", serveEcho)
}

// pass sends the request and hands its answer on.
func pass(w http.ResponseWriter, request *http.Request) {
	response, err := client.Do(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, response.Body)
}

// serveEvents answers with a short stream of server-sent events.
func serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := http.NewResponseController(w)
	for i := range events {
		fmt.Fprintf(w, "event: price\ndata: {\"item\":\"book\",\"cents\":%d}\n\n", 1200+i)
		if flusher.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(eventPause):
		}
	}
}

// serveEcho is a WebSocket that sends each frame back.
func serveEcho(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if key == "" || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "a WebSocket client is wanted", http.StatusBadRequest)
		return
	}
	connection, stream, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer connection.Close()
	accept := sha1.Sum([]byte(key + websocketGUID))
	fmt.Fprintf(stream, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(accept[:]))
	if stream.Flush() == nil {
		_ = echo(connection, stream.Reader)
	}
}

func echo(connection net.Conn, reader *bufio.Reader) error {
	for {
		first, payload, err := readFrame(reader)
		if err != nil {
			return err
		}
		switch first & opcodeBits {
		case opcodePing:
			first = finalFrame | opcodePong
		case opcodePong:
			continue
		}
		if err := writeFrame(connection, first, payload); err != nil || first&opcodeBits == opcodeClose {
			return err
		}
	}
}

func readFrame(reader *bufio.Reader) (byte, []byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(reader, head[:]); err != nil {
		return 0, nil, err
	}
	length := uint64(head[1] & lengthBits)
	switch length {
	case length16:
		var size uint16
		if err := binary.Read(reader, binary.BigEndian, &size); err != nil {
			return 0, nil, err
		}
		length = uint64(size)
	case length64:
		if err := binary.Read(reader, binary.BigEndian, &length); err != nil {
			return 0, nil, err
		}
	}
	if length > frameBytesMax || head[1]&maskedPayload == 0 {
		return 0, nil, fmt.Errorf("a frame of %d bytes, masked: %t", length, head[1]&maskedPayload != 0)
	}
	var key [maskingKeySize]byte
	payload := make([]byte, length)
	if _, err := io.ReadFull(reader, key[:]); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(reader, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= key[i%maskingKeySize]
	}
	return head[0], payload, nil
}

func writeFrame(w io.Writer, first byte, payload []byte) error {
	frame := []byte{first}
	switch {
	case len(payload) <= smallFrameMax:
		frame = append(frame, byte(len(payload)))
	case len(payload) < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, length16), uint16(len(payload)))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, length64), uint64(len(payload)))
	}
	_, err := w.Write(append(frame, payload...))
	return err
}
