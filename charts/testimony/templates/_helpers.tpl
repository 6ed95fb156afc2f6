{{/*
Names are constants: a cluster holds one Testimony, and the names of cluster-wide objects never change, so that an
upgrade always finds them.
*/}}

{{- define "testimony.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: testimony
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: testimony
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Expects (dict "root" $ "component" "..."). Never changes: a Deployment's selector is immutable. */}}
{{- define "testimony.selector" -}}
app.kubernetes.io/name: testimony
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Annotations of an object that stands only while `helm test` runs. Expects the hook's weight. */}}
{{- define "testimony.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{/* Expects (dict "root" $ "image" .Values.image.operator). */}}
{{- define "testimony.image" -}}
{{- $repository := printf "%s/%s" .root.Values.image.registry .image.repository -}}
{{- if .image.digest -}}
{{ $repository }}@{{ .image.digest }}
{{- else -}}
{{ $repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "testimony.sinkEndpoint" -}}
{{- required "sink.endpoint is missing: give the base URL of an OTLP endpoint, for example --set sink.endpoint=http://collector.observability:4318, or --set sink.enabled=false to make AuditSink objects yourself" .Values.sink.endpoint -}}
{{- end }}

{{/* The operator's programs: without the webhook where the API server injects. */}}
{{- define "testimony.components" -}}
controller{{ if eq .Values.injection.mode "Webhook" }} webhook{{ end }}
{{- end }}

{{/* Names of namespaces that are never touched: the operator must never be needed to start the operator, nor the cluster. */}}
{{- define "testimony.excludedNamespaces" -}}
{{- concat (list "kube-system" "kube-node-lease" .Release.Namespace) .Values.excludedNamespaces | uniq | toYaml -}}
{{- end }}

{{/* A namespaceSelector. Expects (dict "root" $ "strict" bool). */}}
{{- define "testimony.namespaceSelector" -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values:
      {{- include "testimony.excludedNamespaces" .root | nindent 6 }}
  {{- if .root.Values.strict.enabled }}
  - key: testimony.dev/enforcement
    operator: {{ if .strict }}In{{ else }}NotIn{{ end }}
    values:
      - strict
  {{- end }}
{{- end }}

{{/*
One object with one entry: removing an entry that the operator has patched would break an upgrade. Expects (dict "root" $
"name" n "entry" n "path" p "strict" bool).
*/}}
{{- define "testimony.webhookConfiguration" }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata:
  # This name and the entry's never change. The operator adds clientConfig.caBundle by server-side apply, and owns
  # nothing else here.
  name: {{ .name }}
  labels:
    {{- include "testimony.labels" .root | nindent 4 }}
    app.kubernetes.io/component: webhook
  {{- with .root.Values.webhook.configurationAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
webhooks:
  - name: {{ .entry }}
    admissionReviewVersions:
      - v1
    clientConfig:
      service:
        name: testimony-webhook
        namespace: {{ .root.Release.Namespace }}
        path: {{ .path }}
        port: 443
    rules:
      - apiGroups:
          - ""
        apiVersions:
          - v1
        operations:
          - CREATE
        resources:
          - pods
        scope: Namespaced
    namespaceSelector:
      {{- include "testimony.namespaceSelector" (dict "root" .root "strict" .strict) | nindent 6 }}
    objectSelector: {}
    {{- if .strict }}
    matchConditions:
      # The API server's image of a static pod, which runs already.
      - name: not-a-mirror-pod
        expression: "!has(object.metadata.annotations) || !('kubernetes.io/config.mirror' in object.metadata.annotations)"
    {{- end }}
    failurePolicy: {{ if .strict }}Fail{{ else }}Ignore{{ end }}
    matchPolicy: Equivalent
    reinvocationPolicy: IfNeeded
    sideEffects: None
    timeoutSeconds: {{ if .strict }}10{{ else }}3{{ end }}
{{- end }}

{{/* A quantity, given as text, as a number. */}}
{{- define "testimony.amount" -}}
{{- $suffix := regexFind "[A-Za-z]*$" . -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf (trimSuffix $suffix . | float64) (get $factors $suffix) -}}
{{- end }}

{{/* A quantity as text. A number of a values file is a float to Helm: printf would write 1.34217728e+08. */}}
{{- define "testimony.quantity" -}}
{{- kindIs "string" . | ternary . (toJson .) -}}
{{- end }}

{{/* Every audited pod would be refused: better said before anything is installed. Expects (dict "of" "sidecar" "resources" {...}). */}}
{{- define "testimony.checkResources" -}}
{{- range $resource := list "cpu" "memory" -}}
{{- $request := get $.resources.requests $resource | include "testimony.quantity" -}}
{{- $limit := get $.resources.limits $resource | include "testimony.quantity" -}}
{{- if gt (include "testimony.amount" $request | float64) (include "testimony.amount" $limit | float64) -}}
{{- fail (printf "%s.resources.requests.%s is %v, more than %s.resources.limits.%s, which is %v: lower the request or raise the limit" $.of $resource $request $.of $resource $limit) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The arguments that both programs take. */}}
{{- define "testimony.args" -}}
{{- include "testimony.checkResources" (dict "of" "sidecar" "resources" .Values.sidecar.resources) -}}
{{- include "testimony.checkResources" (dict "of" "init" "resources" .Values.init.resources) -}}
- {{ printf "--sidecar-image=%v" (include "testimony.image" (dict "root" . "image" .Values.image.sidecar)) | quote }}
- {{ printf "--sidecar-image-pull-policy=%v" .Values.image.pullPolicy | quote }}
- {{ printf "--init-run-as-root=%v" .Values.init.runAsRoot | quote }}
- {{ printf "--init-cpu-request=%s" (include "testimony.quantity" .Values.init.resources.requests.cpu) | quote }}
- {{ printf "--init-cpu-limit=%s" (include "testimony.quantity" .Values.init.resources.limits.cpu) | quote }}
- {{ printf "--init-memory-request=%s" (include "testimony.quantity" .Values.init.resources.requests.memory) | quote }}
- {{ printf "--init-memory-limit=%s" (include "testimony.quantity" .Values.init.resources.limits.memory) | quote }}
- {{ printf "--sidecar-cpu-request=%s" (include "testimony.quantity" .Values.sidecar.resources.requests.cpu) | quote }}
- {{ printf "--sidecar-cpu-limit=%s" (include "testimony.quantity" .Values.sidecar.resources.limits.cpu) | quote }}
- {{ printf "--sidecar-memory-request=%s" (include "testimony.quantity" .Values.sidecar.resources.requests.memory) | quote }}
- {{ printf "--sidecar-memory-limit=%s" (include "testimony.quantity" .Values.sidecar.resources.limits.memory) | quote }}
- {{ printf "--sidecar-log=%v" .Values.sidecar.log | quote }}
- {{ printf "--sidecar-spool-mebibytes=%d" (int .Values.sidecar.spoolMebibytes) | quote }}
- --webhook-config-name=testimony-default
- --strict-webhook-config-name=testimony-strict
- {{ printf "--strict-namespaces=%v" .Values.strict.enabled | quote }}
- {{ printf "--injection-mode=%v" .Values.injection.mode | quote }}
- --injection-owner=testimony-injection
{{- range .Values.excludedNamespaces }}
- {{ printf "--exclude-namespace=%v" . | quote }}
{{- end }}
- --webhook-service=testimony-webhook
- --policy-service=testimony-policy
- --ca-secret=testimony-ca
- --lease-name=testimony-controller
- --owner-cluster-role=testimony-controller
- --webhook-port=10250
- --policy-port=8443
- --admin-port=8080
- {{ printf "--cluster-domain=%v" .Values.clusterDomain | quote }}
- {{ printf "--log-format=%v" .Values.logFormat | quote }}
{{- end }}

{{/*
A Deployment. Expects (dict "root" $ "component" "controller" "replicas" n "resources" {...} "port" (dict "name" n
"number" p) "args" [...]).
*/}}
{{- define "testimony.deployment" -}}
{{- $values := .root.Values -}}
{{- $selector := include "testimony.selector" . -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: testimony-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "testimony.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  replicas: {{ .replicas }}
  revisionHistoryLimit: 3
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  selector:
    matchLabels:
      {{- $selector | nindent 6 }}
  template:
    metadata:
      labels:
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- include "testimony.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .component }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: testimony-{{ .component }}
      automountServiceAccountToken: true
      {{- with $values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        {{- if .headCopyClaim }}
        fsGroup: 65532
        {{- end }}
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: {{ .component }}
          image: {{ include "testimony.image" (dict "root" .root "image" $values.image.operator) }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args:
            - {{ .component }}
            {{- include "testimony.args" .root | nindent 12 }}
            {{- range .args }}
            - {{ . | quote }}
            {{- end }}
          env:
            - name: POD_NAMESPACE
              valueFrom:
                fieldRef:
                  fieldPath: metadata.namespace
            - name: POD_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
          ports:
            - name: {{ .port.name }}
              containerPort: {{ .port.number }}
              protocol: TCP
            - name: admin
              containerPort: 8080
              protocol: TCP
          startupProbe:
            httpGet:
              path: /live
              port: admin
            periodSeconds: 1
            failureThreshold: 60
          livenessProbe:
            httpGet:
              path: /live
              port: admin
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet:
              path: /ready
              port: admin
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 3
          resources:
            {{- toYaml .resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop:
                - ALL
          terminationMessagePolicy: FallbackToLogsOnError
          {{- if .headCopyClaim }}
          volumeMounts:
            - name: head-copy
              mountPath: /var/lib/testimony/head
          {{- end }}
      {{- with .headCopyClaim }}
      volumes:
        - name: head-copy
          persistentVolumeClaim:
            claimName: {{ . }}
      {{- end }}
      {{- with $values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
        {{- end }}
{{- end }}
